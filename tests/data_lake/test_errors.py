import errno

import pytest

from data_lake.errors import disk_failure


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/lake/part"),
            "No space left on device: /lake/part. Make room and run again: what is finished is kept.",
        ),
        (
            OSError(errno.ENOSPC, "Failed to open local file '/lake/part'. Detail: [errno 28] No space left on device"),
            "Failed to open local file '/lake/part'. Detail: [errno 28] No space left on device. Make room and run "
            "again: what is finished is kept.",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/lake"),
            "Permission denied: /lake. Give yourself the right to it and run again: what is finished is kept.",
        ),
        (
            RuntimeError("I/O error: Input/output error (os error 5) at path /lake/part"),
            "I/O error: Input/output error (os error 5) at path /lake/part. Check the disk and run again: what is "
            "finished is kept.",
        ),
    ],
)
def test_an_error_of_the_disk_says_what_where_and_what_to_do(error, told):
    assert disk_failure(error) == told


@pytest.mark.parametrize("error", [ConnectionResetError(errno.ECONNRESET, "reset"), TimeoutError(), ValueError("28")])
def test_an_error_that_may_pass_is_none_of_the_disk(error):
    assert disk_failure(error) is None
