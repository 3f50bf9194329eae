"""Fixtures of the generation tests."""

import pytest

from tests.generation.models import KINDS


@pytest.fixture(params=list(KINDS))
def kind(request):
    return request.param
