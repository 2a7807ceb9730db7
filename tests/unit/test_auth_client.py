import base64
from collections.abc import Callable
from typing import Any

import pytest

from pgambassador.auth import client, scram
from pgambassador.auth.credential import Credential, Md5Hash, Plain, md5_digest, md5_response
from pgambassador.auth.verifier import Verifier, make_verifier, mock_verifier
from pgambassador.errors import ProtocolViolation, Refused
from pgambassador.wire import build, parse
from pgambassador.wire.frames import Dialogue, Frame

OK = build.authentication_ok()
VERIFIER = make_verifier(b"secret", b"0123456789abcdef", 4096)

STRANGER = mock_verifier("nobody", b"key")

Answer = Callable[[bytes], bytes]


def converse(dialogue: Dialogue[bytes], answer: Answer) -> tuple[list[bytes], bytes]:
    """Answer each request; the requests, and the last bytes."""
    requests: list[bytes] = []
    try:
        request = next(dialogue)
        while True:
            requests.append(request)
            request = dialogue.send((ord("p"), answer(request[5:])))
    except StopIteration as stop:
        return requests, stop.value


def outcome(dialogue: Dialogue[bytes], answer: Answer) -> tuple[list[tuple[int, int]], str]:
    """What an observer of a failing login sees: kinds and sizes of the messages, and the error."""
    seen: list[tuple[int, int]] = []

    def watched(request: bytes) -> bytes:
        kind, data = parse.authentication(request)
        seen.append((kind, len(data)))
        return answer(request)

    with pytest.raises(Refused) as caught:
        converse(dialogue, watched)
    return seen, f"{caught.value.sqlstate} {caught.value.sentence()}"


def scram_answers(password: bytes, initial_response: bool = True) -> Answer:
    """A client that does SCRAM-SHA-256."""
    exchange = scram.client(password)
    first = next(exchange)

    def answer(request: bytes) -> bytes:
        kind, data = parse.authentication(request)
        if kind == 10:
            if initial_response:
                return build.sasl_initial_response("SCRAM-SHA-256", first)[5:]
            return b"SCRAM-SHA-256\0\xff\xff\xff\xff"
        return exchange.send(data) if data else first

    return answer


def md5_answers(password: bytes, user: str) -> Answer:
    return lambda request: md5_response(md5_digest(password, user), request[4:8]) + b"\0"


def scram_of(credential: Verifier | Md5Hash | None, **more: Any) -> Dialogue[bytes]:
    return client.scram("app", credential, stand_in=lambda: STRANGER, **more)


def md5_of(credential: Credential | None, user: str = "app", **more: Any) -> Dialogue[bytes]:
    return client.md5(user, credential, stand_in=lambda: STRANGER, **more)


# --- scram


@pytest.mark.parametrize("initial_response", [True, False])
def test_scram_with_the_right_password(initial_response: bool) -> None:
    requests, last = converse(scram_of(VERIFIER), scram_answers(b"secret", initial_response))
    assert len(requests) == (2 if initial_response else 3)
    assert last.startswith(b"R\0\0\0\x36\0\0\0\x0cv=")
    assert last.endswith(OK)


def test_all_failures_look_the_same() -> None:
    credentials: list[Verifier | Md5Hash | None] = [VERIFIER, Md5Hash(b"0a" * 16), None]
    outcomes = [outcome(scram_of(each), scram_answers(b"wrong")) for each in credentials]
    assert len(outcomes[0][0]) == 2
    assert outcomes[0][1] == '28P01 password authentication failed for user "app".'
    assert all(each == outcomes[0] for each in outcomes)


@pytest.mark.parametrize("credential", [None, Md5Hash(b"0a" * 16)])
def test_an_unknown_user_fails_even_with_a_proof_for_the_stand_in(credential: Md5Hash | None) -> None:
    learnt: list[object] = []
    with pytest.raises(Refused):
        dialogue = client.scram("app", credential, stand_in=lambda: VERIFIER, learn=learnt.append)
        converse(dialogue, scram_answers(b"secret"))
    assert learnt == []


def test_an_unknown_user_is_shown_the_stand_in() -> None:
    dialogue = scram_of(None)
    next(dialogue)
    first = build.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=x")[5:]
    salt, iterations = dialogue.send((ord("p"), first)).split(b",")[1:]
    assert (base64.b64decode(salt[2:]), iterations) == (STRANGER.salt, b"i=4096")


def test_the_reason_stays_on_our_side() -> None:
    reasons: list[tuple[Verifier | Md5Hash | None, str]] = [
        (None, "not known"),
        (VERIFIER, "wrong"),
        (Md5Hash(b"0a" * 16), "md5 hash"),
    ]
    for credential, reason in reasons:
        with pytest.raises(Refused) as caught:
            converse(scram_of(credential), scram_answers(b"wrong"))
        assert reason in caught.value.__notes__[0]
        assert reason not in caught.value.sentence()


@pytest.mark.parametrize("binding", [None, b"hash"])
def test_plus_is_offered_where_there_is_something_to_bind_to(binding: bytes | None) -> None:
    offer = next(scram_of(VERIFIER, binding=binding))
    assert (b"SCRAM-SHA-256-PLUS\0" in offer) is (binding is not None)
    assert b"SCRAM-SHA-256\0\0" in offer


def test_plus() -> None:
    exchange = scram.client(b"secret", binding=b"hash")

    def answer(request: bytes) -> bytes:
        kind, data = parse.authentication(request)
        if kind == 10:
            return build.sasl_initial_response("SCRAM-SHA-256-PLUS", next(exchange))[5:]
        return exchange.send(data)

    assert converse(scram_of(VERIFIER, binding=b"hash"), answer)[1].endswith(OK)


@pytest.mark.parametrize(
    "response, sentence",
    [
        ((ord("p"), b""), "malformed SASLInitialResponse"),
        ((ord("p"), b"PLAIN\0\0\0\0\0"), "invalid SASL authentication mechanism"),
        ((ord("p"), b"SCRAM-SHA-256-PLUS\0\0\0\0\0"), "invalid SASL authentication mechanism"),
        ((ord("p"), b"SCRAM-SHA-256\0\0\0\0\0"), "client-first-message is incomplete"),
        ((ord("p"), b"x" * (client.MAX_RESPONSE + 1)), f"at most {client.MAX_RESPONSE}"),
        ((ord("Q"), b"select 1\0"), "expected a password or SASL response, got a message of type 'Q'"),
        ((ord("X"), b""), "got a message of type 'X'"),
    ],
)
def test_a_client_that_breaks_the_protocol(response: Frame, sentence: str) -> None:
    dialogue = scram_of(VERIFIER)
    next(dialogue)
    with pytest.raises(ProtocolViolation, match=sentence):
        dialogue.send(response)


# --- md5


@pytest.mark.parametrize("credential", [Plain(b"secret"), Md5Hash(md5_digest(b"secret", "app"))])
def test_md5_with_the_right_password(credential: Credential) -> None:
    requests, last = converse(md5_of(credential, salt=b"salt"), md5_answers(b"secret", "app"))
    assert requests == [build.authentication_md5(b"salt")]
    assert last == OK


@pytest.mark.parametrize("credential", [Plain(b"secret"), Md5Hash(md5_digest(b"secret", "app")), None])
def test_md5_with_the_wrong_password(credential: Credential | None) -> None:
    assert outcome(md5_of(credential), md5_answers(b"wrong", "app")) == (
        [(5, 4)],
        '28P01 password authentication failed for user "app".',
    )


def test_md5_salts_are_fresh() -> None:
    assert next(md5_of(None)) != next(md5_of(None))


def test_md5_becomes_scram_where_only_a_verifier_is_known() -> None:
    requests, last = converse(md5_of(VERIFIER), scram_answers(b"secret"))
    assert requests[0] == build.authentication_sasl(["SCRAM-SHA-256"])
    assert last.endswith(OK)


# --- all


def test_the_methods_by_name() -> None:
    assert {"scram-sha-256": client.scram, "md5": client.md5} == client.METHODS


def test_a_name_in_an_error_is_bounded() -> None:
    _, error = outcome(md5_of(None, "x" * 60_000), md5_answers(b"", ""))
    assert len(error) < 200


def test_a_proof_is_not_replayed() -> None:
    """The same client messages do not fit a second exchange, whose nonce is another."""
    recorded: list[bytes] = []
    answer = scram_answers(b"secret")

    def recording(request: bytes) -> bytes:
        recorded.append(answer(request))
        return recorded[-1]

    converse(scram_of(VERIFIER), recording)
    replay = iter(recorded)
    with pytest.raises(ProtocolViolation, match="nonce"):
        converse(scram_of(VERIFIER), lambda request: next(replay))
    assert base64.b64encode(b"secret") not in b"".join(recorded)
