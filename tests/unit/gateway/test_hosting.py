"""What a waiting request is told about its wait."""

from polyrank.gateway.hosting import HostedApp
from polyrank.reports import Limits, Ready


def test_a_guess_is_made_from_what_requests_take_and_how_many_run_at_once() -> None:
    app = HostedApp("local/app", Limits())
    app.is_ready("one", Ready(host="127.0.0.1", port=1, token="", routes=[]))
    assert (app.reason(0), app.reason(2)) == ("next", "2 ahead")
    app.note_duration(10.0)
    assert (app.reason(0), app.reason(2)) == ("next, about 10 s", "2 ahead, about 30 s")
    app.is_ready("two", Ready(host="127.0.0.1", port=2, token="", routes=[]))
    assert app.reason(2) == "2 ahead, about 20 s"
    app.note_duration(15.0)  # the latest request counts for a fifth
    assert app.reason(0) == "next, about 11 s"
    app.close()
