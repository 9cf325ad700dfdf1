import pytest

from data_lake.errors import UserError
from data_lake.messages import for_terminal, hide_credentials


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("s3://key:s3cret@bucket/lake: gone", "s3://***@bucket/lake: gone"),
        ("s3://key:s3/cret+x@bucket", "s3://***@bucket"),
        ("ftp://u:s3@cret@host/x (refused)", "ftp://***@host/x (refused)"),
        ("http://s3cret@host:4200/api", "http://***@host:4200/api"),
        ("one http://a:s3cret@h/1, two http://b:s3cret@h/2", "one http://***@h/1, two http://***@h/2"),
        ("'https://h/v1?api_key=s3cret&v=2#x'", "'https://h/v1?***#x'"),
        ("http://:s3cret@h", "http://***@h"),
        ("http://h:8000/v1 of me@home", "http://h:8000/v1 of me@home"),
        ("s3://bucket/me@home/lake", "s3://bucket/me@home/lake"),
        ("nothing: at@all", "nothing: at@all"),
    ],
)
def test_what_stands_before_the_host_of_a_url_and_its_query_are_hidden(said, shown):
    assert hide_credentials(said) == shown
    assert str(UserError(said)) == shown


def test_lines_for_a_terminal_neither_steer_it_nor_hold_credentials():
    said = "a\x1b[2J\r\u202e http://u:s3cret@h\nb\x9b\x85"
    assert for_terminal(said) == "a\\u001b[2J\\u000d\\u202e http://***@h\nb\\u009b\\u0085"
