"""Fixtures of the model tests."""

import numpy as np
import pytest

from tests.model.models import KINDS


@pytest.fixture(params=list(KINDS))
def kind(request):
    return request.param


@pytest.fixture
def ids():
    """(2, 24) token ids below 37."""
    return np.random.default_rng(0).integers(0, 37, (2, 24)).astype("int32")
