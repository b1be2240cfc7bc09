#!/usr/bin/env python3
"""An agent for clawbroker, with Python's standard library only (3.9 or newer).

    CLAWBROKER_API_KEY=oc-... ./agent.py [COMMAND [ARGUMENT...]]

It answers each request with what COMMAND prints; the command reads the request on its standard input and finds
MESSAGE_ID, SENDER and ATTEMPT in its environment. Without a command it says every request back. If the command fails,
the request is given back and comes again later.

    CLAWBROKER_URL       where the broker is (http://127.0.0.1:8000)
    CLAWBROKER_API_KEY   the agent's key: `clawbroker agent key NAME` makes one
    CLAWBROKER_LEASE     seconds for which a message is held without a heartbeat (120, at least 10)

SIGTERM and SIGINT stop it in good order: what it works on is given back to the mailbox.
"""

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import urlsplit

POLL_WAIT_S = 30
ANSWER_S = 90
PAUSE_MAX_S = 60


class Refused(Exception):
    """The broker said no, and would say so again."""

    def __init__(self, status, body):
        error = body.get("error") or {}
        self.status, self.code = status, error.get("code", "")
        super().__init__(f"{status} {self.code}: {error.get('message') or body.get('detail')}")


class Stopped(Exception):
    """The agent is to stop, and nothing was taken from the mailbox."""


class Stop:
    """Whether the agent is to stop. A signal makes `pipe` readable, so that it ends every wait and loses nothing."""

    def __init__(self):
        self.asked = False
        self.pipe, self.wake = socket.socketpair()
        self.wake.setblocking(False)
        signal.set_wakeup_fd(self.wake.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.ask)

    def ask(self, *_):
        self.asked = True

    def wait(self, seconds, *others):
        """Waits until one of `others` is readable, a signal comes or the time is over; returns the readable ones."""
        until = time.monotonic() + seconds
        while True:
            left = max(0, until - time.monotonic())
            ready = select.select([self.pipe, *others], [], [], left)[0]
            found = [other for other in ready if other is not self.pipe]
            if self.pipe in ready and not self.asked:
                # A signal that says nothing to us, for example of a child that has ended.
                self.pipe.recv(64)
                continue
            return found


class Broker:
    """The calls of an agent, each over a connection of its own."""

    def __init__(self, url, key, stop):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            sys.exit(f"agent: CLAWBROKER_URL must be a web address, not {url!r}")
        self.parts, self.key, self.stop = parts, key, stop

    def call(self, method, path, body=None, gives_way=False):
        """Makes one call; returns status, headers and body. With `gives_way` a stop ends it before its answer comes."""
        kind = http.client.HTTPSConnection if self.parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(self.parts.hostname, self.parts.port, timeout=ANSWER_S)
        try:
            headers = {"X-Api-Key": self.key, "Accept": "application/json"}
            data = None
            if body is not None:
                headers["Content-Type"] = "application/json"
                data = json.dumps(body).encode()
            connection.request(method, self.parts.path.rstrip("/") + "/api/gateway/" + path, data, headers)
            if gives_way and not self.stop.wait(ANSWER_S, connection.sock):
                # Nothing has come: the connection ends, and the broker gives nothing out on it.
                raise Stopped if self.stop.asked else TimeoutError("no answer")
            response = connection.getresponse()
            answer = response.read()
            return response.status, response.headers, json.loads(answer)
        finally:
            connection.close()

    def insist(self, method, path, body=None, gives_way=False):
        """Calls until the broker has said yes or no, and returns its answer. Every call made so may be repeated."""
        pause_s = 1
        tries = 0
        while True:
            try:
                status, headers, answer = self.call(method, path, body, gives_way)
            except (OSError, http.client.HTTPException, ValueError) as error:
                status, headers, answer = None, {}, {"detail": str(error)}
            if status == 401:
                sys.exit(f"agent: the broker does not take the key: {answer.get('detail')}")
            if status is not None and 200 <= status < 300:
                return answer
            if status is not None and status != 429 and status < 500:
                raise Refused(status, answer)
            tries += 1
            if self.stop.asked:
                if gives_way or tries >= 3:
                    # On the way out it does not wait for long: the lease ends by itself.
                    raise Stopped
                time.sleep(1)
                continue
            asked = headers.get("Retry-After", "")
            seconds = int(asked) if asked.isdigit() else pause_s
            say(f"{status or 'no answer'}: {answer.get('detail')}; next try in {seconds} s")
            self.stop.wait(seconds)
            pause_s = min(pause_s * 2, PAUSE_MAX_S)


def say(text):
    print(f"agent: {text}", file=sys.stderr, flush=True)


class Agent:
    def __init__(self, broker, stop, command, lease_s):
        self.broker, self.stop, self.command, self.lease_s = broker, stop, command, lease_s

    def run(self):
        path = f"poll?wait={POLL_WAIT_S}&limit=1&ack=explicit&lease={self.lease_s}"
        while not self.stop.asked:
            began = time.monotonic()
            try:
                polled = self.broker.insist("GET", path, gives_way=True)
            except Stopped:
                break
            except Refused as refused:
                # It would say no again: to a lease, for example, that is too short.
                sys.exit(f"agent: {refused}")
            for message in polled["messages"]:
                self.handle(message)
            if not polled["messages"] and time.monotonic() - began < 2:
                # A broker may be set to let nobody wait: then it is not asked all the time.
                self.stop.wait(5)
        say("stopped")

    def handle(self, message):
        try:
            if self.stop.asked:
                self.give_back(message, 0, "the agent stops")
            elif message["kind"] == "request":
                self.answer(message)
            else:
                # A reply or a notice is read, and never answered: two agents would thank each other for ever.
                print(f"{message['kind']} {message['in_reply_to']}: {message['content']}", flush=True)
                self.broker.insist("POST", "ack", {"message_ids": [message["id"]]})
        except Refused as refused:
            # For example handed out again since, or cancelled: it is another's now, or nobody's.
            say(f"{message['id']}: {refused}")
        except Stopped:
            say(f"{message['id']}: the broker does not answer; it comes again when its lease is over")

    def answer(self, message):
        result = self.work(message)
        if result is None:
            return
        # The broker takes no NUL character, and a report must say something.
        result = result.replace("\0", "").rstrip("\n") or "(no answer)"
        try:
            self.broker.insist("POST", "report", {**held(message), "result": result})
            say(f"answered {message['id']}")
        except Refused as refused:
            if refused.status in (404, 409):
                raise
            # Too long, for example: it would be refused the next time, too.
            reason = f"the answer was refused: {refused.code}"
            self.broker.insist("POST", "fail", {**held(message), "reason": reason})
            say(f"gave {message['id']} up: {reason}")

    def work(self, message):
        """Returns the answer to a request, or nothing if the request is not ours any more."""
        if not self.command:
            return message["content"]
        sender = message["sender_agent_name"] or message["sender_user_name"] or ""
        known = {"MESSAGE_ID": message["id"], "SENDER": sender, "ATTEMPT": str(message["delivery_attempt"])}
        try:
            child = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **known}
            )
        except OSError as error:
            self.give_back(message, 30, f"the command does not start: {error.strerror}")
            return None
        with child:
            given = message["content"].encode()
            next_beat = time.monotonic() + self.lease_s / 3
            while True:
                try:
                    # Text goes in with the first look, which takes a moment; then it is looked at now and then.
                    out, _ = child.communicate(given, timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    given = None
                if self.stop.asked:
                    end(child)
                    self.give_back(message, 0, "the agent stops")
                    return None
                if time.monotonic() >= next_beat:
                    next_beat = time.monotonic() + self.lease_s / 3
                    if self.is_lost(message):
                        end(child)
                        say(f"{message['id']}: another one has it by now")
                        return None
        if child.returncode != 0:
            if self.stop.asked:
                self.give_back(message, 0, "the agent stops")
            else:
                self.give_back(message, 30, f"the command ended with status {child.returncode}")
            return None
        return out.decode(errors="replace")

    def is_lost(self, message):
        """Prolongs the lease; tells whether there is none any more."""
        try:
            status, _, heard = self.broker.call("POST", "heartbeat", {"working_on": [held(message)]})
        except (OSError, http.client.HTTPException, ValueError):
            # The next one may get through; the lease lasts for three of them.
            return False
        return status == 200 and bool(heard.get("stale"))

    def give_back(self, message, seconds, reason):
        body = {**held(message), "delay_seconds": seconds, "reason": reason}
        self.broker.insist("POST", "nack", body)
        say(f"gave {message['id']} back: {reason}")


def held(message):
    """Names a message and the hand-out by which it is ours."""
    return {"message_id": message["id"], "delivery_attempt": message["delivery_attempt"]}


def end(child):
    """Ends a command: first kindly."""
    child.terminate()
    try:
        child.communicate(timeout=5)
    except subprocess.TimeoutExpired:
        child.kill()


def main():
    key = os.environ.get("CLAWBROKER_API_KEY")
    if not key:
        sys.exit("agent: set CLAWBROKER_API_KEY to a key of the agent")
    lease = os.environ.get("CLAWBROKER_LEASE", "120")
    try:
        lease_s = int(lease)
    except ValueError:
        say(f"CLAWBROKER_LEASE must be a whole number of seconds, not {lease!r}")
        sys.exit(2)
    stop = Stop()
    broker = Broker(os.environ.get("CLAWBROKER_URL", "http://127.0.0.1:8000"), key, stop)
    Agent(broker, stop, sys.argv[1:], lease_s).run()


if __name__ == "__main__":
    main()
