#!/usr/bin/env python3
"""A backend of the soak: does to each connection what its order says.

    server.py NAME SEED PORT GREETING-PORT PROXY-PORT

On the first port it waits for orders; on the second it speaks before it is asked; on the third it expects a PROXY header. What
it finds wrong it prints, a line each; the parent process counts them.
"""

import os
import select
import socket
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import wire

PATIENCE = 30.0


class Server:
    """All three ports."""

    def __init__(self, name, seed, ports):
        self.name = name
        self.ring = wire.Ring(seed)
        self.greeting = name.encode().ljust(wire.NAME_LENGTH) + self.ring.chunk(0, wire.GREETING_LENGTH)
        for port, serve in zip(ports, (self.serve, self.greet, self.serve_proxied)):
            listening = socket.create_server(("127.0.0.1", port), backlog=1024)
            threading.Thread(target=self.accept, args=(listening, serve), daemon=True).start()

    def accept(self, listening, serve):
        while True:
            end, _ = listening.accept()
            threading.Thread(target=self.guard, args=(end, serve), daemon=True).start()

    def guard(self, end, serve):
        """Whatever the peer does ends this connection and nothing else."""
        end.settimeout(PATIENCE)
        try:
            with end:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                serve(end)
        except wire.Mismatch as error:
            self.complain(f"mismatch: {error}")
        except wire.Short as error:
            self.complain(f"cut short: {error}")
        except OSError:
            pass

    def complain(self, text):
        os.write(1, f"{self.name}: {text}\n".encode())

    def greet(self, end):
        end.sendall(self.greeting)
        self.serve(end)

    def serve_proxied(self, end):
        announced = wire.read_proxy(end)
        self.serve(end, announced, proxied=True)

    def serve(self, end, announced=None, proxied=False):
        while data := wire.exactly(end, wire.ORDER_LENGTH):
            order = wire.Order.unpack(data) if len(data) == wire.ORDER_LENGTH else None
            if order is None:
                wire.reset(end)
                return
            if proxied and announced != (order.host, order.port):
                self.complain(f"mismatch: the header announces {announced}, the client is {order.host}:{order.port}")
            end.sendall(self.name.encode().ljust(wire.NAME_LENGTH))
            if not self.obey(end, order):
                return

    def obey(self, end, order):
        """Does what the order says; may there be another one?"""
        down = wire.down_start(order.key)
        send = wire.send_urgent if order.manner == wire.URGENT else wire.send
        match order.verb:
            case wire.TALK:
                self.read(end, order)
                send(end, self.ring, down, order.down)
            case wire.ANSWER_FIRST:
                send(end, self.ring, down, order.down)
                self.read(end, order)
            case wire.DUPLEX:
                writer = threading.Thread(target=self.write_beside, args=(end, down, order.down), daemon=True)
                writer.start()
                wire.receive(end, self.ring, wire.up_start(order.key), order.up)
                writer.join()
                end.sendall(wire.verdict(True, order.up))
            case wire.TRICKLE:
                self.read(end, order)
                for at in range(0, order.down, 3):
                    wire.send(end, self.ring, down + at, min(3, order.down - at))
                    time.sleep(0.01)
            case wire.RESET_AT:
                wire.send(end, self.ring, down, order.at)
                wire.reset(end)
                return False
            case wire.FIN_EARLY:
                wire.send(end, self.ring, down, order.at)
                end.shutdown(socket.SHUT_WR)
                wire.receive(end, self.ring, wire.up_start(order.key), order.up)
                return False
            case wire.STALL:
                gone = select.poll()
                gone.register(end, select.POLLRDHUP | select.POLLERR)
                gone.poll(PATIENCE * 1000)
                wire.reset(end)
                return False
            case wire.FLOOD:
                while True:
                    wire.send(end, self.ring, down, wire.CHUNK)
                    down += wire.CHUNK
        return True

    def read(self, end, order):
        receive = wire.receive_urgent if order.manner == wire.URGENT else wire.receive
        try:
            receive(end, self.ring, wire.up_start(order.key), order.up)
            end.sendall(wire.verdict(True, order.up))
        except wire.Mismatch:
            end.sendall(wire.verdict(False, order.up))
            raise

    def write_beside(self, end, start, length):
        try:
            wire.send(end, self.ring, start, length)
        except OSError:
            pass


def main():
    name, seed, *ports = sys.argv[1:]
    threading.stack_size(256 << 10)
    Server(name, int(seed), [int(port) for port in ports])
    starter = os.getppid()
    while os.getppid() == starter:
        time.sleep(1)


if __name__ == "__main__":
    main()
