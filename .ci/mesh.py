"""A mesh of the product's programs for the checks that are written in Python: a Registry, a home, two clouds and a gateway."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PATIENCE_S = 90


def until(what, ask, patience=PATIENCE_S):
    """Asks until there is an answer that is true."""
    begun = time.monotonic()
    while not (answer := ask()):
        if time.monotonic() - begun > patience:
            sys.exit(f"waited too long for {what}")
        time.sleep(0.05)
    return answer


def free_port():
    """One that stays free while its process is away: below those that the system gives to whoever dials."""
    for port in range(20_000 + os.getpid() % 12_000, 32_000):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    sys.exit("no port of the loopback below 32000 is free")


class Mesh:
    """Processes of the programs in one folder, with their directories in another. The gateway carries one service, at `address`."""

    def __init__(self, programs, folder, service):
        self.programs, self.folder, self.service, self.running = programs.resolve(), folder, service, {}
        self.address = f"127.0.0.1:{free_port()}"
        self.command("wayfare-registry", "registry", "init", "--listen", "127.0.0.1:0")
        self.run("wayfare-registry", "registry")
        for name, role in [("home", "home"), ("alpha", "cloud"), ("beta", "cloud"), ("edge", "gateway")]:
            token = self.command("wayfare-registry", "registry", "join-token", "--cloud", name, "--role", role)
            where = ["--service", f"{service}={self.address}"] if role == "gateway" else ["--listen", "127.0.0.1:0", "--policy", "never"]
            self.command("wayfare", name, "init", "--join", "-", *where, stdin=token)
            self.run("wayfare", name)

    def command(self, program, name, *arguments, stdin=""):
        line = [self.programs / program, *arguments, "--dir", self.folder / name]
        done = subprocess.run(line, input=stdin, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
        if done.returncode != 0:
            sys.exit(f"{program} {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def run(self, program, name):
        log = open(self.folder / f"{name}.log", "a", encoding="utf-8")
        line = [self.programs / program, "run", "--json", "--dir", self.folder / name]
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=log, text=True)
        if not process.stdout.readline():
            sys.exit(f"{name} does not start: {(self.folder / f'{name}.log').read_text()[-2000:]}")
        self.running[name] = process

    def knows(self, name, cloud):
        return cloud in self.command("wayfare", name, "clouds")

    def move(self, source, target):
        until(f"{source} to hear of {target}", lambda: self.knows(source, target))
        self.command("wayfare", source, "move", self.service, "--to", target)

    def deploy(self, module):
        self.command("wayfare", "home", "deploy", str(module), "--name", self.service)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.running.values():
            process.kill()
            process.wait()
