"""Tokens of OAUTHBEARER from a callback; no broker is needed for librdkafka to want one."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import math
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_broker import sasl_broker
from loops import run, until
from support import NOBODY, end, run_python, wait_for

from kafka_async import ConfigError, Consumer, ConsumerError, OAuthToken, Producer, _oauth, _unsecured, aio

SASL = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanisms": "OAUTHBEARER"}
MAKE: dict[str, Callable[..., Any]] = {"producer": Producer, "consumer": Consumer}
AIO: dict[str, Callable[..., Any]] = {"producer": aio.Producer, "consumer": aio.Consumer}
SECRET = "s3cr3t-t0k3n"
LATER = time.time() + 86_400
UNSECURED = "enable.sasl.oauthbearer.unsecure.jwt"


def token(lifetime_s: float = 3600) -> OAuthToken:
    return OAuthToken(SECRET, time.time() + lifetime_s)


class Calls:
    """A callback that notes its calls, and what threads they are on."""

    def __init__(self, answer: Callable[[], object] = token) -> None:
        self.answer = answer
        self.times: list[float] = []
        self.configs: list[str] = []
        self.threads: list[threading.Thread] = []
        self.native_names: list[str] = []

    def __call__(self, config: str) -> Any:
        self.threads.append(threading.current_thread())
        self.native_names.append(Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text().strip())
        self.configs.append(config)
        self.times.append(time.time())
        return self.answer()

    @property
    def count(self) -> int:
        return len(self.times)


class Unhappy:
    """A callback that fails at first."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.times: list[float] = []

    def __call__(self, _: str) -> Any:
        self.times.append(time.time())
        answer = self.answers.pop(0) if self.answers else token()
        if isinstance(answer, BaseException):
            raise answer
        return answer


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "kafka_async-oauth"]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    wait_for(lambda: not threads(), what="the end of all threads")


@pytest.mark.parametrize("name", MAKE)
def test_callback_runs_on_a_named_python_thread_and_gets_the_configuration(name: str) -> None:
    calls = Calls()
    config = {**SASL, "sasl.oauthbearer.config": "realm=desk " * 1000}
    with MAKE[name](NOBODY, config=config, on_oauth=calls):
        wait_for(lambda: calls.count)
        (thread,) = threads()
    assert calls.threads == [thread]
    assert thread.daemon
    assert calls.native_names == ["ka-oauth"]
    assert calls.configs == ["realm=desk " * 1000]


def test_callback_of_an_unset_configuration_gets_an_empty_one() -> None:
    calls = Calls()
    with Producer(NOBODY, config=SASL, on_oauth=calls):
        wait_for(lambda: calls.count)
    assert calls.configs == [""]


def test_next_token_is_asked_for_before_the_last_one_expires(caplog: pytest.LogCaptureFixture) -> None:
    """Of a producer, and of a consumer that fails to get it, which is no trouble of a poll yet."""
    calls = Calls(lambda: token(8))
    failing = Unhappy(token(8), OSError("away for a moment"))
    with (
        Producer(NOBODY, config=SASL, on_oauth=calls),
        Consumer(NOBODY, "t", config=SASL, on_oauth=failing) as consumer,
    ):
        wait_for(lambda: calls.count == len(failing.times) == 2)
        consumer.poll_message(0.5)
        wait_for(lambda: "Failed to acquire SASL OAUTHBEARER token: on_oauth raised OSError" in caplog.text)
        consumer.poll_message(0)
    for times in (calls.times, failing.times):
        assert 6.3 < times[1] - times[0] < 8  # at 80 %, looked at once a second


@pytest.mark.parametrize("name", AIO)
def test_coroutine_function_is_awaited_on_the_loop(name: str) -> None:
    async def main() -> None:
        told: list[tuple[str, threading.Thread, object]] = []

        async def on_oauth(config: str) -> OAuthToken:
            await asyncio.sleep(0)
            told.append((config, threading.current_thread(), asyncio.get_running_loop()))
            return token()

        async with AIO[name](NOBODY, config={**SASL, "sasl.oauthbearer.config": "x"}, on_oauth=on_oauth):
            await until(lambda: told)
            assert threads() == []
        assert told == [("x", threading.main_thread(), asyncio.get_running_loop())]

    run(main(), debug=True)


@pytest.mark.parametrize("name", AIO)
def test_plain_function_runs_on_a_thread_beside_the_loop(name: str) -> None:
    async def main() -> None:
        calls = Calls()
        async with AIO[name](NOBODY, config=SASL, on_oauth=calls):
            await until(lambda: calls.count)
            assert calls.threads == threads() != []

    run(main())


def test_awaitable_callback_that_is_an_object_or_partial_is_awaited() -> None:
    class Source:
        called = 0

        async def __call__(self, _: str) -> OAuthToken:
            self.called += 1
            return token()

    async def on_oauth(source: Source, config: str) -> OAuthToken:
        return await source(config)

    async def main() -> None:
        for bound in (source := Source(), functools.partial(on_oauth, source)):
            before = source.called
            async with aio.Producer(NOBODY, config=SASL, on_oauth=bound):
                await until(lambda before=before: source.called > before)  # type: ignore[misc]

    run(main())


def test_coroutine_that_waits_for_ever_is_cancelled_by_stop() -> None:
    begun: list[str] = []
    ended: list[str] = []

    async def on_oauth(_: str) -> OAuthToken:
        begun.append("asked")  # a task that has not begun is cancelled without a word
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return token()

    async def main() -> None:
        producer = aio.Producer(NOBODY, config=SASL, on_oauth=on_oauth)
        consumer = aio.Consumer(NOBODY, config=SASL, on_oauth=on_oauth)
        await until(lambda: len(begun) == 2)
        await producer.stop(1)
        await consumer.stop(1)
        await until(lambda: len(ended) == 2)

    run(main(), debug=True)


@pytest.mark.filterwarnings("ignore:a producer was not stopped:ResourceWarning")  # one that is kept keeps the producer
def test_forgotten_client_of_asyncio_asks_no_more() -> None:
    async def main() -> None:
        calls: list[str] = []

        async def on_oauth(config: str) -> OAuthToken:
            calls.append(config)
            return token()

        producer: Any = aio.Producer(NOBODY, config=SASL, on_oauth=on_oauth)
        await until(lambda: calls)
        waits, producer = producer._waits, None
        gc.collect()
        await until(lambda: waits._attend is None)

    run(main())


@pytest.mark.parametrize("name", MAKE)
def test_coroutine_function_is_refused_where_nothing_awaits_it(name: str) -> None:
    async def on_oauth(_: str) -> OAuthToken:
        return token()

    with pytest.raises(TypeError, match=r"on_oauth .* is a coroutine function"):
        MAKE[name](NOBODY, config=SASL, on_oauth=on_oauth)


def test_coroutine_of_a_plain_function_fails_with_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    words = "returned a coroutine, which nothing awaits on this thread: return the token, or give kafka_async.aio"

    async def coroutine() -> OAuthToken:
        return token()

    async def main() -> None:
        caplog.clear()
        async with aio.Producer(NOBODY, config=SASL, on_oauth=lambda _: coroutine()):
            await until(lambda: words in caplog.text)

    with Producer(NOBODY, config=SASL, on_oauth=Calls(coroutine)):
        wait_for(lambda: words in caplog.text)
    run(main())


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "'security.protocol' is 'plaintext'"),
        ({"security.protocol": "SASL_PLAINTEXT", "sasl.mechanisms": "PLAIN"}, "'sasl.mechanisms' is 'PLAIN'"),
        ({**SASL, UNSECURED: True, "sasl.oauthbearer.config": "principal=x"}, "exclude each other"),
    ],
)
def test_callback_that_would_never_be_called_is_refused(name: str, config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        MAKE[name](NOBODY, config=config, on_oauth=lambda _: token())
    assert raised.value.property in words or raised.value.property == UNSECURED


@pytest.mark.parametrize("name", MAKE)
def test_mechanism_without_a_source_of_tokens_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="give on_oauth") as raised:
        MAKE[name](NOBODY, config={**SASL, "sasl.mechanism": "oauthbearer"})
    assert raised.value.property == "sasl.mechanisms"
    MAKE[name](NOBODY, config={"sasl.mechanisms": "OAUTHBEARER"}).stop()  # without security it has no effect


def test_callback_that_is_not_callable_is_refused() -> None:
    with pytest.raises(TypeError, match="on_oauth must be callable, not str"):
        Producer(NOBODY, config=SASL, on_oauth="token")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "must return an OAuthToken, or a tuple .* not NoneType"),
        (SECRET, "not str"),
        ((SECRET,), "not 1 values"),
        ((SECRET, 1, "", None, 5), "not 5 values"),
        ((SECRET.encode(), 1), "the token must be str, not bytes"),
        (("", 1), "visible ASCII"),
        ((SECRET + "\n", 1), "strip"),
        ((SECRET + "ä", 1), "visible ASCII"),
        ((f"Bearer {SECRET}", 1), "without 'Bearer'"),
        ((SECRET, "soon"), "expires_at must be seconds since the epoch, not str"),
        ((SECRET, True), "not bool"),
        ((SECRET, math.nan), "seconds since the epoch"),
        ((SECRET, time.time() * 1000), "not milliseconds"),
        ((SECRET, 3600), r"time.time\(\) \+ 3600"),
        ((SECRET, LATER - 86_500), r"expired \d+\.\d* s ago"),
        ((SECRET, LATER, 7), "principal must be str without NUL, not int"),
        ((SECRET, LATER, "a\0b"), "principal must be str without NUL"),
        ((SECRET, LATER, "", [SECRET]), "extensions must be a mapping of str to str, not list"),
        ((SECRET, LATER, "", {"auth": SECRET}), "extension 'auth'"),
        ((SECRET, LATER, "", {"logical-cluster": SECRET}), "extension 'logical-cluster'"),
        ((SECRET, LATER, "", {1: SECRET}), "extension 1"),
        ((SECRET, LATER, "", {"a": 5}), "value of extension 'a'"),
        ((SECRET, LATER, "", {"a": ""}), "at least one"),
        ((SECRET, LATER, "", {"a": SECRET + "\0"}), "value of extension 'a'"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_wrong_answer_says_what_to_do_and_never_the_token(answer: object, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words) as raised:
        _oauth.check_answer(answer)
    assert SECRET not in str(raised.value)


def test_tuples_do_as_well_as_tokens() -> None:
    soon = time.time() + 60
    assert _oauth.check_answer((SECRET, soon)) == OAuthToken(SECRET, soon)
    assert _oauth.check_answer([SECRET, int(soon), "me", {"a": "x y"}]) == (SECRET, int(soon), "me", {"a": "x y"})


def test_token_and_extensions_are_never_shown() -> None:
    shown = repr(OAuthToken(SECRET, 5.0, "me", {"cluster": SECRET}))
    assert shown == "OAuthToken(..., expires_at=5.0, principal='me', extensions={cluster})"


def test_failure_is_logged_with_its_traceback_and_raised_by_a_poll(caplog: pytest.LogCaptureFixture) -> None:
    on_oauth = Unhappy(PermissionError("the identity provider said no"), SystemExit("enough"))
    with Consumer(NOBODY, "t", config=SASL, on_oauth=on_oauth) as consumer:
        with pytest.raises(
            ConsumerError, match="on_oauth raised PermissionError: the identity provider said no"
        ) as raised:
            consumer.poll_message(10)
        assert raised.value.name == "_AUTHENTICATION"
        wait_for(lambda: "on_oauth raised SystemExit: enough" in caplog.text, 15)
        assert consumer.poll_message(0.5) is None  # the same mistake is raised once
    assert 9 < on_oauth.times[1] - on_oauth.times[0] < 13
    (record, _) = (record for record in caplog.records if "on_oauth gave no token" in record.message)
    assert record.exc_info is not None
    assert record.exc_info[0] is PermissionError
    assert "Traceback" in caplog.text


def test_connection_lost_in_the_handshake_is_no_trouble_of_a_poll(caplog: pytest.LogCaptureFixture) -> None:
    with sasl_broker(None) as servers, Consumer(servers, "t", config=SASL, on_oauth=Calls()) as consumer:
        wait_for(lambda: consumer.poll_message(0) or "handshake failed: Local: " in caplog.text)
        assert consumer.poll_message(0.5) is None


def test_error_with_an_unprintable_text_is_told_by_its_type(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest-xdist can't pass a report with a lone surrogate on, as the traceback has it.
    monkeypatch.setattr(logging.Formatter, "formatException", lambda *_: "a traceback")

    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    odd, long = (Unhappy(error) for error in (Odd(), ValueError("nul \0, \udc80 " + "x" * 10_000)))
    with Producer(NOBODY, config=SASL, on_oauth=odd), Producer(NOBODY, config=SASL, on_oauth=long):
        wait_for(lambda: "token: on_oauth raised Odd" in caplog.text)
        wait_for(lambda: "on_oauth raised ValueError: nul  , ? x" in caplog.text)


def test_wrong_answers_are_told_and_no_token_is_in_any_log(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.DEBUG),
        Producer(NOBODY, config={**SASL, "debug": "all"}, on_oauth=Unhappy((SECRET, 3600))) as producer,
        Consumer(NOBODY, "t", config={**SASL, "debug": "all"}, on_oauth=Calls()) as consumer,
    ):
        wait_for(lambda: "must be a time, not a lifetime" in caplog.text)
        wait_for(lambda: "after setting OAUTHBEARER token" in caplog.text)
        assert SECRET not in repr(producer) + repr(consumer)
    assert SECRET not in caplog.text


@pytest.mark.parametrize("name", MAKE)
def test_hanging_callback_holds_up_neither_stop_nor_others(name: str) -> None:
    release = threading.Event()
    calls = Calls()
    hanging = Calls(lambda: release.wait(30) and token())
    client = MAKE[name](NOBODY, "t", config=SASL, on_oauth=hanging)
    wait_for(lambda: hanging.count)
    with MAKE[name](NOBODY, "t", config=SASL, on_oauth=calls):
        wait_for(lambda: calls.count)
    if name == "producer":
        client.send(b"v")
    began = time.monotonic()
    if name == "producer":
        end(client)
    else:
        client.poll_message(0.1)
        client.stop(1)
    assert time.monotonic() - began < 2
    wait_for(lambda: len(threads()) == 1)  # the one that hangs: it ends with the call
    release.set()


def test_hanging_callback_does_not_hold_up_the_exit() -> None:
    done = run_python(
        """
        import sys, threading, time
        from kafka_async import Consumer, Producer
        config = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanisms": "OAUTHBEARER"}
        called = threading.Semaphore(0)
        def on_oauth(config):
            called.release()
            time.sleep(60)
        clients = [Producer(sys.argv[1], "t", config=config, on_oauth=on_oauth, log=False),
                   Consumer(sys.argv[1], "t", config=config, on_oauth=on_oauth, log=False)]
        for _ in clients:
            called.acquire()
        """,
        NOBODY,
        limit=15,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_child_of_a_fork_neither_calls_nor_frees() -> None:
    done = run_python(
        """
        import os, sys, threading, time
        from kafka_async import ForkedError, Producer
        config = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanisms": "OAUTHBEARER"}
        calls = []
        def on_oauth(config):
            calls.append(os.getpid())
            return "token", time.time() + 4
        def wait(count):
            end = time.monotonic() + 10
            while len(calls) < count:
                assert time.monotonic() < end
                time.sleep(0.01)
        producer = Producer(sys.argv[1], "t", config=config, on_oauth=on_oauth, log=False)
        wait(1)
        if (child := os.fork()) == 0:
            try:
                producer.send(b"v")
            except ForkedError:
                producer.stop()
                del producer
                own = Producer(sys.argv[1], "t", config=config, on_oauth=on_oauth, log=False)
                wait(2)
                own.stop()
                assert calls[1:] == [os.getpid()]
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        wait(2)
        assert set(calls) == {os.getpid()}
        producer.stop()
        """,
        NOBODY,
    )
    assert (done.returncode, done.stderr) == (0, "")


class Owner:
    """Knows its client, which knows its method."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self.calls = 0
        self.client = make(NOBODY, "t", config=SASL, on_oauth=self.on_oauth)

    def on_oauth(self, _: str) -> OAuthToken:
        self.calls += 1
        return token()


@pytest.mark.parametrize("name", MAKE)
def test_callback_that_knows_its_client_does_not_keep_it(name: str) -> None:
    owner: Owner | None = Owner(MAKE[name])
    assert owner is not None
    wait_for(lambda: owner.calls)
    gone = weakref.ref(owner)
    owner = None

    def collected() -> bool:
        gc.collect()
        return gone() is None and not threads()

    wait_for(collected)


def test_client_is_collected_within_its_own_callback() -> None:
    clients: list[Producer] = []
    dropped = threading.Event()
    ready = threading.Event()

    def on_oauth(_: str) -> OAuthToken:
        ready.wait(10)
        clients.clear()
        gc.collect()
        dropped.set()
        return token()

    clients.append(Producer(NOBODY, config=SASL, on_oauth=on_oauth))
    ready.set()
    assert dropped.wait(10)


def test_client_is_stopped_within_its_own_callback() -> None:
    clients: list[Producer] = []
    stopped = threading.Event()
    ready = threading.Event()

    def on_oauth(_: str) -> OAuthToken:
        ready.wait(10)
        clients[0].stop()
        stopped.set()
        return token()

    clients.append(Producer(NOBODY, config=SASL, on_oauth=on_oauth))
    ready.set()
    assert stopped.wait(10)


def test_many_clients_leave_no_thread_and_no_descriptor() -> None:
    # In a process of its own: other tests' clients open and close connections of theirs.
    done = run_python(
        """
        import contextlib, os, sys, time
        from kafka_async import Consumer, OAuthToken, Producer
        from kafka_async._native import lib
        config = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanisms": "OAUTHBEARER"}

        def wait_for(condition):
            end = time.monotonic() + 15
            while not condition():
                assert time.monotonic() < end, (before, resources())
                time.sleep(0.002)

        def resources():
            threads = []
            for task in os.listdir("/proc/self/task"):
                with contextlib.suppress(OSError):  # it has just ended
                    with open(f"/proc/self/task/{task}/comm") as comm:
                        threads.append(comm.read())
            return len(threads), len(os.listdir("/proc/self/fd")), sorted(threads)

        def cycle():
            calls = []
            def on_oauth(config):
                calls.append(config)
                return OAuthToken("t", time.time() + 3600)
            options = {"config": config, "on_oauth": on_oauth}
            with Producer(sys.argv[1], "t", **options), Consumer(sys.argv[1], "t", **options):
                wait_for(lambda: len(calls) == 2)

        before = None
        cycle()
        assert lib.ka_wait_workers(10_000_000) == lib.KA_OK
        wait_for(lambda: "ka-oauth\\n" not in resources()[2])
        before = resources()
        for _ in range(5):
            cycle()
        assert lib.ka_wait_workers(10_000_000) == lib.KA_OK
        wait_for(lambda: resources()[0] <= before[0] and resources()[1] <= before[1])
        """,
        NOBODY,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_unsecured_tokens_are_renewed_without_a_crash() -> None:
    done = run_python(
        """
        import logging, sys, time
        from kafka_async import Consumer, Producer
        config = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanisms": "OAUTHBEARER", "debug": "security",
                  "enable.sasl.oauthbearer.unsecure.jwt": True, "sasl.oauthbearer.config": "principal=me lifeSeconds=2"}
        given = {"producer": 0, "consumer": 0}
        class Handler(logging.Handler):
            def emit(self, record):
                for name in given:
                    if "after setting OAUTHBEARER token" in record.getMessage() and name in record.getMessage():
                        given[name] += 1
        logging.getLogger("kafka_async").addHandler(Handler())
        logging.getLogger("kafka_async").setLevel(logging.DEBUG)
        with Producer(sys.argv[1], "t", config=config), Consumer(sys.argv[1], "t", config=config):
            end = time.monotonic() + 15
            while min(given.values()) < 3:
                assert time.monotonic() < end, given
                time.sleep(0.01)
        """,
        NOBODY,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_unsecured_token_is_what_its_description_says() -> None:
    import base64
    import json

    text = "principal=me scope=a,b scopeClaimName=roles lifeSeconds=60 extension_traceId=7"
    minted = _oauth.check_answer(_unsecured.mint(text))
    header, claims, signature = minted.token.split(".")
    decoded = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    assert signature == ""
    assert json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4))) == {"alg": "none"}
    assert (decoded["sub"], decoded["roles"], decoded["exp"] - decoded["iat"]) == ("me", ["a", "b"], 60)
    assert (minted.principal, minted.extensions) == ("me", {"traceId": "7"})
    assert 59 < minted.expires_at - time.time() <= 60


@pytest.mark.parametrize("text", ["", "scope=a", "principal=", "principal=me lifeSeconds=0", "principal=me life=5"])
def test_malformed_description_of_an_unsecured_token_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape("'sasl.oauthbearer.config'")):
        _unsecured.mint(text)
