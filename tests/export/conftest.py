import pytest

from tests.export.exported import make_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def exported(folder):
    """The SavedModel of `folder`."""
    target = folder.parent / "served" / "1"
    target.mkdir(parents=True)
    from kgpt.export.savedmodel.export import export_saved_model

    export_saved_model(folder, target)
    return target
