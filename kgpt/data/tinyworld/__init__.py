"""A small world, its stories, its questions, and a judge of answers: the embedded corpus.

A seeded grammar generates any amount of simple stories and conversations about people, animals,
places, things, colours, counting, opposites, days and feelings. One *combination* in ten (Anna with
a blue kite; "what follows" with Monday) is held out: it occurs nowhere in the training text. A
model that answers questions about held-out combinations has learned the rule, not the sentence.
"""

from kgpt.data.tinyworld.preferences import preferences
from kgpt.data.tinyworld.questions import Question, questions
from kgpt.data.tinyworld.rewards import prompts, reward, write_prompts
from kgpt.data.tinyworld.stories import conversations, stories, write
from kgpt.data.tinyworld.tales import tales
from kgpt.data.tinyworld.world import is_held_out

__all__ = [
    "Question", "conversations", "is_held_out", "preferences", "prompts", "questions", "reward",
    "stories", "tales", "write", "write_prompts",
]  # fmt: skip
