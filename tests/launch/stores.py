"""A key-value store in memory, for groups of threads."""

import threading

from kgpt.launch.store import ProcessLost


class MemoryStore:
    """What JAX's coordinator offers; `down` makes every call raise."""

    def __init__(self):
        self.values, self.down = {}, False
        self._changed = threading.Condition()

    def _check(self):
        if self.down:
            raise ProcessLost("Process 0 does not answer.")

    def set(self, key, value):
        self._check()
        with self._changed:
            self.values[key] = value
            self._changed.notify_all()

    def get(self, key, timeout_s):
        self._check()
        with self._changed:
            self._changed.wait_for(lambda: key in self.values, timeout_s)
            return self.values.get(key)

    def entries(self, prefix):
        self._check()
        return {key: value for key, value in self.values.items() if key.startswith(prefix)}

    def delete(self, key):
        self._check()
        del self.values[key]
