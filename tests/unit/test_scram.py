import base64
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pgambassador.auth import scram
from pgambassador.auth.scram import MAX_ITERATIONS, MAX_MESSAGE, MAX_NONCE, MAX_SALT
from pgambassador.auth.verifier import Keys, Verifier, derive, make_verifier
from pgambassador.errors import ProtocolViolation

# RFC 7677, section 3.
RFC_CLIENT_NONCE = b"rOprNGfwEbeRWgbNEkqO"
RFC_SERVER_NONCE = b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
RFC_SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
RFC_CLIENT_FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
RFC_SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
RFC_CLIENT_FINAL = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
    b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
RFC_SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="

VERIFIER = make_verifier(b"pencil", b"salt", 1)
PLUS = scram.SCRAM_SHA_256_PLUS


def test_the_client_of_the_rfc() -> None:
    client = scram.client(b"pencil", user=b"user", nonce=RFC_CLIENT_NONCE)
    assert next(client) == RFC_CLIENT_FIRST
    assert client.send(RFC_SERVER_FIRST) == RFC_CLIENT_FINAL
    assert scram.finish(client, RFC_SERVER_FINAL) is None


def test_the_server_of_the_rfc() -> None:
    verifier = make_verifier(b"pencil", RFC_SALT, 4096)
    server = scram.server(RFC_CLIENT_FIRST, verifier, nonce=RFC_SERVER_NONCE)
    assert next(server) == RFC_SERVER_FIRST
    assert scram.finish(server, RFC_CLIENT_FINAL) == RFC_SERVER_FINAL


# --- both sides


def meet(password: bytes, verifier: Verifier, **client_options) -> bytes | None:
    """Let our two sides talk; what the server answered at last, which the client has then checked."""
    binding = client_options.get("binding")
    client = scram.client(password, **client_options)
    mechanism = PLUS if binding is not None else scram.SCRAM_SHA_256
    server = scram.server(next(client), verifier, mechanism=mechanism, binding=binding)
    final = scram.finish(server, client.send(next(server)))
    if final is not None:
        scram.finish(client, final)
    return final


@given(
    st.binary(max_size=200) | st.text(max_size=50).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(min_size=1, max_size=64),
    st.integers(1, 5),
    st.none() | st.binary(max_size=64),
)
def test_the_right_password_is_right(
    password: bytes, salt: bytes, iterations: int, binding: bytes | None
) -> None:
    assert meet(password, make_verifier(password, salt, iterations), binding=binding) is not None


@given(st.binary(max_size=20).filter(lambda password: password != b"pencil"))
def test_a_wrong_password_is_wrong(password: bytes) -> None:
    assert meet(password, VERIFIER) is None


def test_a_long_password() -> None:
    password = b"token" * 4000
    assert meet(password, make_verifier(password, b"salt", 2)) is not None
    assert meet(password + b"x", make_verifier(password, b"salt", 2)) is None


def test_nonces_are_fresh_and_long() -> None:
    assert scram.make_nonce() != scram.make_nonce()
    assert len(base64.b64decode(scram.make_nonce())) == 18


# --- channel binding


@pytest.mark.parametrize(
    "options, header", [({}, b"n,,"), ({"could_bind": True}, b"y,,"), ({"binding": b"hash"}, b"p=")]
)
def test_the_binding_flag(options, header: bytes) -> None:
    assert next(scram.client(b"pencil", **options)).startswith(header)


def test_two_ends_of_different_channels() -> None:
    client = scram.client(b"pencil", binding=b"to the man in the middle")
    server = scram.server(next(client), VERIFIER, mechanism=PLUS, binding=b"from the man in the middle")
    with pytest.raises(ProtocolViolation, match="channel binding check failed"):
        server.send(client.send(next(server)))


@pytest.mark.parametrize(
    "client_first, mechanism, binding, sentence",
    [
        (b"y,,n=,r=x", scram.SCRAM_SHA_256, b"hash", "channel binding negotiation error"),
        (b"n,,n=,r=x", PLUS, b"hash", "without channel binding data"),
        (b"y,,n=,r=x", PLUS, b"hash", "without channel binding data"),
        (b"p=tls-server-end-point,,n=,r=x", scram.SCRAM_SHA_256, b"hash", "under a mechanism without it"),
        (b"p=tls-unique,,n=,r=x", PLUS, b"hash", "unsupported SCRAM channel-binding type 'tls-unique'"),
    ],
)
def test_a_binding_that_does_not_fit(client_first, mechanism, binding, sentence) -> None:
    with pytest.raises(ProtocolViolation, match=sentence):
        next(scram.server(client_first, VERIFIER, mechanism=mechanism, binding=binding))


@pytest.mark.parametrize("header, binding", [(b"n,,", b"hash"), (b"n,,", None), (b"y,,", None)])
def test_a_client_that_does_not_bind(header: bytes, binding: bytes | None) -> None:
    server = scram.server(header + b"n=,r=x", VERIFIER, binding=binding)
    assert next(server).startswith(b"r=x")


# --- a hostile server

GOOD_FIRST = b"r=abcdef,s=c2FsdA==,i=1"


@pytest.mark.parametrize(
    "server_first, sentence",
    [
        (b"", "not a list of attributes"),
        (b",", "not a list of attributes"),
        (b"r", "not a list of attributes"),
        (b"r=abcdef", "attribute s is missing"),
        (b"r=abcdef,s=c2FsdA==", "attribute i is missing"),
        (b"s=c2FsdA==,i=1", "attribute r expected, s found"),
        (b"m=future,r=abcdef,s=c2FsdA==,i=1", "attribute r expected, m found"),
        (b"r=abcdef,i=1,s=c2FsdA==", "attribute s expected, i found"),
        (GOOD_FIRST + b",x=1", "more attributes"),
        (b"r=abc,s=c2FsdA==,i=1", "nonce does not extend ours"),
        (b"r=xyzdef,s=c2FsdA==,i=1", "nonce does not extend ours"),
        (b"r=,s=c2FsdA==,i=1", "nonce is empty"),
        (b"r=abc def,s=c2FsdA==,i=1", "not printable"),
        (b"r=abc" + b"x" * MAX_NONCE + b",s=c2FsdA==,i=1", f"at most {MAX_NONCE}"),
        (b"r=abcdef,s=,i=1", "salt of 0 bytes"),
        (b"r=abcdef,s=!,i=1", "salt is not valid base64"),
        (b"r=abcdef,s=c2FsdA,i=1", "salt is not valid base64"),
        (b"r=abcdef,s=" + base64.b64encode(b"s" * (MAX_SALT + 1)) + b",i=1", f"1 to {MAX_SALT}"),
        (b"r=abcdef,s=c2FsdA==,i=", "''"),
        (b"r=abcdef,s=c2FsdA==,i=0", "'0'"),
        (b"r=abcdef,s=c2FsdA==,i=-1", "'-1'"),
        (b"r=abcdef,s=c2FsdA==,i= 1", "' 1'"),
        (b"r=abcdef,s=c2FsdA==,i=1_0", "'1_0'"),
        (
            b"r=abcdef,s=c2FsdA==,i=2000000000",
            f"asks for '2000000000' SCRAM iterations; 1 to {MAX_ITERATIONS}",
        ),
        (b"r=abcdef,s=c2FsdA==,i=%d" % (MAX_ITERATIONS + 1), f"1 to {MAX_ITERATIONS}"),
        (b"r=abcdef,s=c2FsdA==,i=" + b"9" * 5000, f"1 to {MAX_ITERATIONS}"),
        (GOOD_FIRST + b"0" * MAX_MESSAGE, f"at most {MAX_MESSAGE}"),
    ],
)
def test_a_bad_server_first_message(server_first: bytes, sentence: str) -> None:
    def never(*_):
        raise AssertionError("keys were derived for a message that is not valid")

    client = scram.client(b"pencil", nonce=b"abc", derive=never)
    next(client)
    with pytest.raises(ProtocolViolation, match=re.escape(sentence)):
        client.send(server_first)


@pytest.mark.parametrize(
    "server_final, sentence",
    [
        (b"", "not a list of attributes"),
        (b"x=1", "attribute v expected, x found"),
        (b"v=", "signature is wrong"),
        (b"v=c2lnbmF0dXJl", "signature is wrong"),
        (b"v=c2lnbmF0dXJ", "server signature is not valid base64"),
        (RFC_SERVER_FINAL, "signature is wrong"),
        (b"e=other-error", "ended the SCRAM exchange: 'other-error'"),
        (b"e=" + b"\xff" * 100, "ended the SCRAM exchange"),
    ],
)
def test_a_server_that_cannot_prove_itself(server_final: bytes, sentence: str) -> None:
    client = scram.client(b"pencil", nonce=b"abc")
    next(client)
    client.send(GOOD_FIRST)
    with pytest.raises(ProtocolViolation, match=sentence) as caught:
        client.send(server_final)
    assert "pencil" not in caught.value.sentence()
    assert caught.value.sentence().isascii()


# --- a hostile client


@pytest.mark.parametrize(
    "client_first, sentence",
    [
        (b"", "incomplete"),
        (b"n", "incomplete"),
        (b"n,,", "not a list of attributes"),
        (b"n,,n=", "attribute r is missing"),
        (b"n,,r=x", "attribute n expected, r found"),
        (b"n,,m=future,n=,r=x", "attribute n expected, m found"),
        (b"n,,n=,r=", "nonce is empty"),
        (b"n,,n=,r=\x01", "not printable"),
        (b"n,,n=,r=" + b"x" * (MAX_NONCE + 1), f"at most {MAX_NONCE}"),
        (b"n,a=root,n=,r=x", "authorization identity"),
        (b"x,,n=,r=x", "unknown channel-binding flag 'x'"),
        (b"n,,n=\0,r=x", "not a list of attributes"),
        (b"n,,n=,r=x," + b"x=" * MAX_MESSAGE, f"at most {MAX_MESSAGE}"),
        (b"n" * (MAX_MESSAGE + 1) + b",,n=,r=x", "incomplete"),
    ],
)
def test_a_bad_client_first_message(client_first: bytes, sentence: str) -> None:
    with pytest.raises(ProtocolViolation, match=re.escape(sentence)):
        next(scram.server(client_first, VERIFIER))


PROOF = base64.b64encode(b"p" * 32)


@pytest.mark.parametrize(
    "client_final, sentence",
    [
        (b"", "not a list of attributes"),
        (b"c=biws", "attribute r is missing"),
        (b"c=biws,p=" + PROOF, "attribute r expected, p found"),  # no nonce: once crashed a pooler
        (b"r=xs,c=biws,p=" + PROOF, "attribute c expected, r found"),
        (b"c=biws,r=xs", "attribute p expected, r found"),
        (b"c=biws,r=xs,p=" + PROOF + b",x=1", "attribute p expected, x found"),
        (b"c=biws,r=x,p=" + PROOF, "nonce of the client-final-message"),
        (b"c=eSws,r=xs,p=" + PROOF, "channel binding check failed"),
        (b"c=,r=xs,p=" + PROOF, "channel binding check failed"),
        (b"c=?,r=xs,p=" + PROOF, "channel binding is not valid base64"),
        (b"c=biws,r=xs,p=", "a proof of 0 bytes"),
        (b"c=biws,r=xs,p=?", "proof is not valid base64"),
        (b"c=biws,r=xs,p=" + base64.b64encode(b"p" * 33), "a proof of 33 bytes"),
        (b"c=biws,r=xs,p=" + b"A" * MAX_MESSAGE, f"at most {MAX_MESSAGE}"),
    ],
)
def test_a_bad_client_final_message(client_final: bytes, sentence: str) -> None:
    server = scram.server(b"n,,n=,r=x", VERIFIER, nonce=b"s")
    assert next(server) == b"r=xs,s=c2FsdA==,i=1"
    with pytest.raises(ProtocolViolation, match=sentence):
        server.send(client_final)


def test_extensions_of_a_client_are_ignored() -> None:
    server = scram.server(b"n,,n=,r=x,y=future", VERIFIER, nonce=b"s")
    assert next(server) == b"r=xs,s=c2FsdA==,i=1"
    assert scram.finish(server, b"c=biws,r=xs,z=future,p=" + PROOF) is None


@given(st.binary(), st.binary())
def test_garbage_is_refused(first: bytes, final: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        next(scram.server(first, VERIFIER))
    server = scram.server(b"n,,n=,r=x", VERIFIER)
    next(server)
    with pytest.raises(ProtocolViolation):
        server.send(final)
    client = scram.client(b"pencil")
    next(client)
    with pytest.raises(ProtocolViolation):
        client.send(first)


@given(st.lists(st.tuples(st.sampled_from("acnrsimpvxe"), st.text("abc=/+ ", max_size=5))))
def test_attributes_in_any_order_never_surprise(pairs: list[tuple[str, str]]) -> None:
    message = ",".join(f"{name}={value}" for name, value in pairs).encode()
    for exchange in (scram.client(b"pencil", nonce=b"a"), scram.server(b"n,,n=,r=x", VERIFIER)):
        next(exchange)
        try:
            exchange.send(message)
        except ProtocolViolation as error:
            assert error.sqlstate in ("08P01", "28000")


# --- cut short, and changed on the way


def whole_exchange() -> tuple[list[bytes], list[bytes]]:
    """What client and server send in an exchange that succeeds, with the nonces `abc` and `def`."""
    client = scram.client(b"pencil", nonce=b"abc")
    first = next(client)
    server = scram.server(first, VERIFIER, nonce=b"def")
    answer = next(server)
    final = client.send(answer)
    proof = scram.finish(server, final)
    assert proof is not None
    scram.finish(client, proof)
    return [first, final], [answer, proof]


def with_changed(said: list[bytes], step: int, changed: bytes) -> list[bytes]:
    return [changed if number == step else each for number, each in enumerate(said)]


SAID_BY_CLIENT, SAID_BY_SERVER = whole_exchange()


@pytest.mark.parametrize("step", [0, 1])
def test_a_client_that_is_cut_short(step: int) -> None:
    """Whatever is missing at the end: no proof without all of it."""
    for size in range(len(SAID_BY_CLIENT[step])):
        first, final = with_changed(SAID_BY_CLIENT, step, SAID_BY_CLIENT[step][:size])
        try:
            server = scram.server(first, VERIFIER, nonce=b"def")
            next(server)
            assert scram.finish(server, final) is None
        except ProtocolViolation:
            pass


@pytest.mark.parametrize("step", [0, 1])
def test_a_server_that_is_cut_short(step: int) -> None:
    for size in range(len(SAID_BY_SERVER[step])):
        answer, proof = with_changed(SAID_BY_SERVER, step, SAID_BY_SERVER[step][:size])
        client = scram.client(b"pencil", nonce=b"abc")
        next(client)
        with pytest.raises(ProtocolViolation):
            client.send(answer)
            scram.finish(client, proof)


@given(st.sampled_from([0, 1]), st.data())
def test_a_single_changed_byte_is_noticed_by_both(step: int, data: st.DataObject) -> None:
    """In whichever direction: what was signed is what was sent."""
    for ours, said in ((True, SAID_BY_SERVER), (False, SAID_BY_CLIENT)):
        place = data.draw(st.integers(0, len(said[step]) - 1))
        changed = bytearray(said[step])
        changed[place] ^= data.draw(st.integers(1, 255))
        first, second = with_changed(said, step, bytes(changed))
        try:
            if ours:
                client = scram.client(b"pencil", nonce=b"abc")
                next(client)
                client.send(first)
                # A final message alone proves nothing if the one before it was another.
                with pytest.raises(ProtocolViolation):
                    scram.finish(client, second)
            else:
                server = scram.server(first, VERIFIER, nonce=b"def")
                next(server)
                assert scram.finish(server, second) is None
        except ProtocolViolation:
            pass


def test_what_a_server_said_before_does_not_fit_again() -> None:
    """A replay: the nonce of this exchange is another."""
    client = scram.client(b"pencil", nonce=b"xyz")
    next(client)
    with pytest.raises(ProtocolViolation, match="does not extend ours"):
        client.send(SAID_BY_SERVER[0])


def test_a_proof_tells_the_key_and_a_wrong_one_does_not() -> None:
    learnt: list[Keys] = []
    for password, known in ((b"wrong", 0), (b"pencil", 1)):
        client = scram.client(password)
        server = scram.server(next(client), VERIFIER, learn=learnt.append)
        scram.finish(server, client.send(next(server)))
        assert len(learnt) == known
    assert learnt == [derive(b"pencil", b"salt", 1)]
    assert "key" not in repr(learnt[0]).lower().replace("keys", "")


HEADERS = [b"n,,", b"y,,", b"p=tls-server-end-point,,", b"p=tls-unique,,", b"n,a=x,", b"z,,", b""]
EXTRA = st.tuples(st.sampled_from([b"n=", b"r=", b"m=", b"x="]), st.binary(max_size=6))


@given(st.sampled_from(HEADERS), st.binary(max_size=6), st.binary(max_size=6), st.lists(EXTRA, max_size=2))
@example(b"p=tls-server-end-point,,", b"", b"nonce", [])
@example(b"n,,", b"user", b"nonce", [])
def test_the_usual_first_message_is_read_as_any_other(
    header: bytes, name: bytes, nonce: bytes, more: list[tuple[bytes, bytes]]
) -> None:
    message = header + b",".join([b"n=" + name, b"r=" + nonce, *(key + value for key, value in more)])
    usual = scram._USUAL_FIRST.fullmatch(message)
    if usual:
        assert usual.groups() == scram._client_first(message)


@pytest.mark.parametrize("header", HEADERS[:3])
def test_most_first_messages_are_usual(header: bytes) -> None:
    assert scram._USUAL_FIRST.fullmatch(header + b"n=user,r=nonce")


@pytest.mark.parametrize("size", [1024, 1025])
def test_a_nonce_is_as_long_as_it_may_be(size: int) -> None:
    message = b"n,,n=,r=" + b"x" * size
    assert bool(scram._USUAL_FIRST.fullmatch(message)) == (size <= MAX_NONCE)
