import pytest

from pgambassador.auth import scram
from pgambassador.auth.credential import md5_digest, md5_response
from pgambassador.auth.server import Channel, answer
from pgambassador.auth.verifier import Borrowed, KeyCache, derive, make_verifier
from pgambassador.errors import ConfigError, ProtocolViolation, Refused
from pgambassador.wire import build, parse
from pgambassador.wire.frames import Dialogue

CLEAR = Channel()
TLS = Channel(encrypted=True, verified=True)
BOUND = Channel(encrypted=True, verified=True, binding=b"hash")
SOCKET = Channel(local=True)
VERIFIER = make_verifier(b"secret", b"salt", 1)
OK = build.authentication_ok()[5:]


def ask(data: bytes) -> Dialogue[bytes]:
    _, payload = yield data
    return payload


def begin(challenge: bytes, secret: bytes | None = b"secret", channel: Channel = CLEAR) -> Dialogue[bool]:
    """A dialogue that has read the message `challenge`."""
    return answer(challenge[5:], secret, user="app", channel=channel, ask=ask, derive=KeyCache())


def finish(dialogue: Dialogue[bool], payload: bytes) -> None:
    with pytest.raises(StopIteration):
        dialogue.send((ord("R"), payload))


def test_no_question_asked() -> None:
    with pytest.raises(StopIteration):
        next(begin(build.authentication_ok(), secret=None))


# --- passwords


@pytest.mark.parametrize("channel", [TLS, BOUND, SOCKET])
@pytest.mark.parametrize("secret", [b"secret", b"t" * 20_000])
def test_clear_text_where_nobody_listens(channel: Channel, secret: bytes) -> None:
    dialogue = begin(build.authentication_cleartext(), secret, channel)
    assert next(dialogue) == build.password_message(secret)
    finish(dialogue, OK)


@pytest.mark.parametrize("channel", [CLEAR, Channel(encrypted=True), Channel(verified=True)])
def test_no_clear_text_where_somebody_may(channel: Channel) -> None:
    with pytest.raises(Refused, match="not verified TLS; it was not sent") as caught:
        next(begin(build.authentication_cleartext(), channel=channel))
    assert "secret" not in caught.value.sentence()
    assert "sslmode=verify-full" in (caught.value.hint or "")


def test_md5() -> None:
    dialogue = begin(build.authentication_md5(b"salt"))
    assert next(dialogue) == build.password_message(md5_response(md5_digest(b"secret", "app"), b"salt"))
    finish(dialogue, OK)


@pytest.mark.parametrize("secret, sentence", [(None, "none is configured"), (b"", "none"), (b"a\0b", "NUL")])
def test_a_secret_that_cannot_be_used(secret: bytes | None, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        next(begin(build.authentication_md5(b"salt"), secret))
    assert caught.value.sqlstate == "28P01"


@pytest.mark.parametrize(
    "kind, name", [(7, "GSSAPI"), (9, "SSPI"), (2, "Kerberos V5"), (99, "an unknown method .99.")]
)
def test_methods_that_are_not_supported(kind: int, name: str) -> None:
    with pytest.raises(Refused, match=f"authenticate by {name}, which is not supported"):
        next(begin(build.frame(ord("R"), kind.to_bytes(4, "big"))))


@pytest.mark.parametrize("payload", [b"", b"\0\0\0", b"\0\0\0\5sal", b"\0\0\0\5salty"])
def test_malformed_challenges(payload: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="malformed Authentication"):
        next(begin(b"R\0\0\0\0" + payload))


def test_a_second_question_after_the_answer() -> None:
    dialogue = begin(build.authentication_md5(b"salt"))
    next(dialogue)
    with pytest.raises(ProtocolViolation, match="did not end the authentication"):
        dialogue.send((ord("R"), build.authentication_cleartext()[5:]))


# --- SASL


@pytest.mark.parametrize(
    "offered, channel, chosen, header",
    [
        (["SCRAM-SHA-256"], CLEAR, "SCRAM-SHA-256", b"n,,"),
        (["SCRAM-SHA-256"], TLS, "SCRAM-SHA-256", b"n,,"),
        (["SCRAM-SHA-256"], BOUND, "SCRAM-SHA-256", b"y,,"),
        (["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"], BOUND, "SCRAM-SHA-256-PLUS", b"p=tls-server-end-point,,"),
        # No hash of the certificate is known: "y" would accuse a server that did offer.
        (["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"], TLS, "SCRAM-SHA-256", b"n,,"),
        (["OAUTHBEARER", "SCRAM-SHA-256"], TLS, "SCRAM-SHA-256", b"n,,"),
    ],
)
def test_the_mechanism_chosen(offered: list[str], channel: Channel, chosen: str, header: bytes) -> None:
    dialogue = begin(build.authentication_sasl(offered), channel=channel)
    mechanism, first = parse.sasl_initial_response(next(dialogue)[5:])
    assert mechanism == chosen
    assert first is not None and first.startswith(header)

    binding = channel.binding if chosen == scram.SCRAM_SHA_256_PLUS else None
    server = scram.server(first, VERIFIER, mechanism=chosen, binding=binding)
    final = dialogue.send((ord("R"), build.authentication_sasl_continue(next(server))[5:]))
    proven = scram.finish(server, final[5:])
    assert proven is not None
    assert dialogue.send((ord("R"), build.authentication_sasl_final(proven)[5:])) == b""
    finish(dialogue, OK)


@pytest.mark.parametrize("offered", [[], ["OAUTHBEARER"], ["x" * 10_000] * 1000, ["SCRAM-SHA-256-PLUS"]])
def test_no_mechanism_in_common(offered: list[str]) -> None:
    with pytest.raises(Refused, match="offers only SASL mechanisms that are not supported") as caught:
        next(begin(build.authentication_sasl(offered), channel=TLS))
    assert len(caught.value.sentence()) < 400


def test_an_offer_to_bind_a_channel_that_is_none() -> None:
    offer = build.authentication_sasl(["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"])
    with pytest.raises(ProtocolViolation, match="over a connection without TLS"):
        next(begin(offer, channel=CLEAR))


def test_a_server_that_skips_its_proof_is_not_believed() -> None:
    dialogue = begin(build.authentication_sasl(["SCRAM-SHA-256"]))
    next(dialogue)
    with pytest.raises(ProtocolViolation, match="broke off the SCRAM exchange: Authentication 0, not 11"):
        dialogue.send((ord("R"), OK))

    dialogue = begin(build.authentication_sasl(["SCRAM-SHA-256"]))
    _, first = parse.sasl_initial_response(next(dialogue)[5:])
    server = scram.server(first or b"", VERIFIER)
    dialogue.send((ord("R"), build.authentication_sasl_continue(next(server))[5:]))
    with pytest.raises(ProtocolViolation, match="broke off the SCRAM exchange: Authentication 0, not 12"):
        dialogue.send((ord("R"), OK))


def test_the_binding_is_not_shown() -> None:
    assert "hash" not in repr(BOUND)


# --- what a client's login has shown


def test_a_borrowed_key_in_place_of_the_password() -> None:
    keys = derive(b"secret", b"salt", 1)
    dialogue = answer(
        build.authentication_sasl(["SCRAM-SHA-256"])[5:],
        Borrowed(keys, b"salt", 1),
        user="app",
        channel=CLEAR,
        ask=ask,
    )
    first = next(dialogue)
    server = scram.server(parse.sasl_initial_response(first[5:])[1] or b"", VERIFIER)
    final = dialogue.send((ord("R"), build.authentication_sasl_continue(next(server))[5:]))
    proof = scram.finish(server, final[5:])
    assert proof is not None
    dialogue.send((ord("R"), build.authentication_sasl_final(proof)[5:]))
    with pytest.raises(StopIteration) as stop:
        dialogue.send((ord("R"), OK))
    assert stop.value.value is True


@pytest.mark.parametrize(
    "challenge", [build.authentication_cleartext(), build.authentication_md5(b"salt")], ids=["clear", "md5"]
)
def test_a_borrowed_key_is_good_for_scram_only(challenge: bytes) -> None:
    key = Borrowed(derive(b"secret", b"salt", 1), b"salt", 1)
    with pytest.raises(Refused, match='does not ask user "app" for scram-sha-256'):
        next(answer(challenge[5:], key, user="app", channel=TLS, ask=ask))


def test_who_asks_for_nothing_is_told_apart() -> None:
    with pytest.raises(StopIteration) as stop:
        next(begin(build.authentication_ok()))
    assert stop.value.value is False
