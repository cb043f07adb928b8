"""Which requests get an answer: each refused case once, and what every answer forbids the browser."""

from __future__ import annotations

import http.client
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from libraries import SearchedLibrary
from page_client import ORIGIN, PORT, PageClient, fill
from page_server import RunningServer, running_server

READ = ["/", "/static/page.js", "/api/library", "/api/rows?result=x", "/audio/x", "/file/x", "/plotly.js", "/nowhere"]
WRITES = [
    ("POST", "/api/search", {}),
    ("PUT", "/api/stem/x/rating", {"rating": 5}),
    ("PUT", "/api/stem/x/correction", {"column": "bpm", "value": 120}),
    ("POST", "/api/map", {}),
    ("POST", "/api/ids", {"positions": []}),
]


@pytest.fixture
def running(searched: SearchedLibrary) -> Iterator[RunningServer]:
    """The page on a real socket."""
    fill(searched)
    with running_server(searched) as server:
        yield server


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1", "127.0.0.1:80", "127.0.0.2:8765", ""]
)
def test_a_name_that_is_not_the_pages_gets_nothing(page: PageClient, host: str) -> None:
    for address in READ:
        answer = page.http.get(address, headers={"Host": host})
        assert answer.status_code == 403, address
        assert answer.json()["error"] == f"the page's address is http://127.0.0.1:{PORT}/, not {host or 'empty'}"


def test_both_names_of_this_computer_are_the_pages(page: PageClient) -> None:
    for host in (f"127.0.0.1:{PORT}", f"localhost:{PORT}", f"LOCALHOST:{PORT}"):
        headers = {"Host": host, "Origin": f"http://{host}"}
        assert page.http.get("/api/library", headers=headers).status_code == 200
        assert page.http.post("/api/search", headers=headers, json={}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [None, "null", "http://evil.example", f"https://127.0.0.1:{PORT}", "http://127.0.0.1", f"http://localhost:{PORT}"],
)
def test_only_the_page_itself_may_send(page: PageClient, origin: str | None) -> None:
    headers = {} if origin is None else {"Origin": origin}
    for method, address, value in WRITES:
        answer = page.http.request(method, address, json=value, headers=headers)
        assert answer.status_code == 403, address
        assert "only the page itself may change something" in answer.json()["error"]


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
def test_what_a_form_can_send_is_refused(page: PageClient, media_type: str | None) -> None:
    headers = {"Origin": ORIGIN} | ({"Content-Type": media_type} if media_type else {})
    for method, address, value in WRITES:
        answer = page.http.request(method, address, content=json.dumps(value), headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (403, "what is sent must be application/json"), address


def test_other_methods_are_refused_from_elsewhere_and_do_nothing_here(page: PageClient) -> None:
    foreign = {"Origin": "http://evil.example", "Access-Control-Request-Method": "PUT"}
    own = {"Origin": ORIGIN, "Content-Type": "application/json"}
    for method in ("OPTIONS", "DELETE", "PATCH"):
        assert page.http.request(method, "/api/search", headers=foreign).status_code == 403
        assert page.http.request(method, "/api/search", headers=own).status_code == 405


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": f"http://localhost:{PORT}"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "anything"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "audio"},
    ],
)
def test_what_another_page_asks_for_gets_nothing(page: PageClient, headers: dict[str, str]) -> None:
    for address in READ:
        assert page.http.get(address, headers=headers).status_code == 403, address
        assert page.http.head(address, headers=headers).status_code == 403, address


def test_a_link_leads_to_the_page_and_to_nothing_else(page: PageClient) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert page.http.get("/", headers=link).status_code != 403
    assert page.http.get("/api/library", headers=link).status_code == 403
    for dest in ("iframe", "frame", "embed", "object"):
        assert page.http.get("/", headers={**link, "Sec-Fetch-Dest": dest}).status_code == 403


def test_an_address_that_a_person_typed_gets_an_answer(page: PageClient) -> None:
    typed = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert page.http.get("/api/library", headers=typed).status_code == 200
    assert page.http.get("/api/library", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_every_answer_forbids_what_does_not_belong_to_the_page(page: PageClient) -> None:
    foreign = {"Host": "evil.example"}
    for answer in (page.http.get(address, headers=headers) for address in READ for headers in ({}, foreign)):
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert policy["script-src"] == policy["connect-src"] == policy["media-src"] == "'self'"
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["cache-control"] in ("no-store", "no-cache")


def test_no_path_leads_out_of_the_static_files(page: PageClient, tmp_path: Path) -> None:
    for name in ("../app.py", "..%2Fapp.py", "%2e%2e%2fapp.py", "..%5capp.py", "/etc/passwd", "%00", "%2e%2e"):
        assert page.http.get(f"/static/{name}").status_code == 404, name


def test_a_hostile_body_is_refused_with_a_sentence(page: PageClient) -> None:
    headers = {"Origin": ORIGIN, "Content-Type": "application/json"}
    for body in (b"", b"{", b"[" * 100_000, b"\xff", b'{"rating": NaN}', b"[]", b'"x"', b"1" * 5_000):
        answer = page.http.post("/api/search", content=body, headers=headers)
        assert answer.status_code == 400, body[:20]
        assert answer.json()["error"], body[:20]


def test_too_much_is_refused(page: PageClient) -> None:
    headers = {"Origin": ORIGIN, "Content-Type": "application/json"}
    answer = page.http.post("/api/search", content=b" " * (32 * 2**20 + 1), headers=headers)
    assert "were sent" in answer.json()["error"]


# -- on a real socket -------------------------------------------------------------------------------------------------


def asked(running: RunningServer, method: str, address: str, headers: dict[str, str], body: str | None = None) -> int:
    """Return the status of a request whose headers are these alone."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
    connection.putrequest(method, address, skip_host=True, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body.encode() if body is not None else None)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def test_the_real_server_refuses_other_names_and_other_pages(running: RunningServer) -> None:
    own = f"127.0.0.1:{running.port}"
    written = {"Host": own, "Origin": f"http://{own}", "Content-Type": "application/json"}
    assert asked(running, "GET", "/api/library", {"Host": own}) == 200
    assert asked(running, "GET", "/api/library", {"Host": "evil.example"}) == 403
    assert asked(running, "GET", "/api/library", {"Host": own, "Origin": "http://evil.example"}) == 403
    assert asked(running, "GET", "/api/library", {"Host": own, "Sec-Fetch-Site": "cross-site"}) == 403
    assert asked(running, "POST", "/api/search", written, "{}") == 200
    assert asked(running, "POST", "/api/search", {**written, "Origin": "http://evil.example"}, "{}") == 403
    assert asked(running, "POST", "/api/search", {"Host": own, "Content-Type": "application/json"}, "{}") == 403
    assert asked(running, "POST", "/api/search", {**written, "Content-Type": "text/plain"}, "{}") == 403


def test_a_request_of_two_hosts_or_of_none_gets_nothing(running: RunningServer) -> None:
    for hosts in ("", f"Host: 127.0.0.1:{running.port}\r\nHost: evil.example\r\n"):
        with socket.create_connection(("127.0.0.1", running.port), timeout=30) as connection:
            connection.sendall(f"GET /api/library HTTP/1.0\r\n{hosts}\r\n".encode())
            status = connection.makefile("rb").readline().split()[1]
        assert status in (b"400", b"403"), hosts


@pytest.mark.skipif(sys.platform != "linux", reason="others have one loopback address")
def test_only_the_loopback_address_listens(running: RunningServer) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", running.port), timeout=30)
