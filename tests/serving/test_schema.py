"""Requests drawn from the server's own schema, valid and not: none of them brings it down.

`KGPT_SCHEMA_CASES` says about how many; 2,000 if not given.
"""

import os
from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.serving.fakes import FakeGenerator
from tests.serving.harness import eventually

pytestmark = pytest.mark.slow
CASES = int(os.environ.get("KGPT_SCHEMA_CASES", "2000"))


def test_no_request_is_answered_with_a_server_error(serve):
    schemathesis = pytest.importorskip("schemathesis")
    options = {"max_num_seqs": 64, "max_queue": 4096}
    running = serve(FakeGenerator(**options), max_tokens=16, **options)
    api = schemathesis.openapi.from_url(f"{running.url}/openapi.json")
    operations = [found.ok() for found in api.get_all_operations()]
    posts = [operation for operation in operations if operation.method == "post"]
    statuses = Counter()

    def run(operation, mode, count):
        @given(operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def ask(case):
            answer = case.call(base_url=running.url)
            statuses[answer.status_code] += 1
            assert answer.status_code < 500, answer.text
            assert "Traceback" not in answer.text

        ask()

    modes = schemathesis.GenerationMode
    for operation in operations:
        if operation in posts:
            run(operation, modes.POSITIVE, CASES // len(posts) // 2)
            run(operation, modes.NEGATIVE, CASES // len(posts) // 2)
        else:
            run(operation, modes.POSITIVE, 10)
    print(dict(statuses))
    assert sum(statuses.values()) >= CASES
    assert statuses[200] > CASES // 10 and statuses[400] > CASES // 10
    eventually(lambda: running.generator.stats().active == 0)
