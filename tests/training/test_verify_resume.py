"""What a trial run complains of reaches the user."""

import pytest

from discli.runtime.errors import DiscliError
from discli.training.verify_resume import _complaint, verify_resume


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ("loading ...\ndiscli: what is wrong.\n  how to mend it.\n", ("what is wrong.", "how to mend it.")),
        ("Killed\n", ("Killed", "")),
        ("", ("", "")),
    ],
)
def test_two_lines_are_taken_apart(errors, said):
    assert _complaint(errors) == said


def test_a_run_that_cannot_start_says_why(tmp_path):
    with pytest.raises(DiscliError) as refused:
        verify_resume("quickstart", data=tmp_path / "gone.h5")
    assert "The trial run failed: " in refused.value.message
    assert "gone.h5 does not exist" in refused.value.message
    assert "discli encode" in refused.value.hint
    assert refused.value.status == 2


def test_it_is_tried_with_as_many_processes_as_asked_for(digits_file):
    settings = ["data.resolution=8", "train.batch_size=4"]
    with pytest.raises(DiscliError, match="does not divide among 3 processes"):
        verify_resume("quickstart", data=digits_file, overrides=settings, device="cpu", processes=3)
