"""An SMTP server for tests: takes mail, and writes down what it saw as one JSON object a line.

    smtp_server.py [--starttls CERT KEY] [--implicit CERT KEY] [--auth USER PASSWORD]

It prints its port first. A recipient named `code-NNN@...` is answered with NNN; a sender named
`code-NNN@...` makes the end of the message be answered so. Only the standard library is used.
"""

import base64
import json
import socketserver
import ssl
import sys
import threading

OPTIONS = {}
PRINT = threading.Lock()


def tell(seen):
    with PRINT:
        print(json.dumps(seen), flush=True)


class Session(socketserver.StreamRequestHandler):
    timeout = 30

    def say(self, text):
        self.wfile.write(text.encode() + b"\r\n")
        self.wfile.flush()

    def line(self):
        return self.rfile.readline().decode().rstrip("\r\n")

    def protect(self, option):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*OPTIONS[option])
        self.connection = context.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb", -1)
        self.wfile = self.connection.makefile("wb", 0)
        self.secure = True

    def handle(self):
        self.secure = False
        self.user = None
        self.mail = {"from": None, "to": []}
        if "--implicit" in OPTIONS:
            self.protect("--implicit")
        self.say("220 test ESMTP")
        while True:
            line = self.line()
            verb, _, rest = line.partition(" ")
            if not line or verb.upper() == "QUIT":
                if line:
                    self.say("221 bye")
                return
            getattr(self, "do_" + verb.lower(), self.do_unknown)(rest)

    def do_unknown(self, _):
        self.say("502 what?")

    def do_ehlo(self, _):
        lines = ["test", "8BITMIME", "SMTPUTF8"]
        if "--starttls" in OPTIONS and not self.secure:
            lines.append("STARTTLS")
        if "--auth" in OPTIONS:
            lines.append("AUTH " + OPTIONS.get("--mechanisms", ["PLAIN LOGIN"])[0])
        for line in lines[:-1]:
            self.say("250-" + line)
        self.say("250 " + lines[-1])

    def do_starttls(self, _):
        if "--starttls" not in OPTIONS:
            return self.say("502 no")
        self.say("220 go")
        self.protect("--starttls")

    def do_auth(self, rest):
        mechanism, _, first = rest.partition(" ")
        if mechanism == "PLAIN":
            if not first:
                self.say("334 ")
                first = self.line()
            _, user, password = base64.b64decode(first).decode().split("\0")
        else:
            self.say("334 VXNlcm5hbWU6")
            user = base64.b64decode(self.line()).decode()
            self.say("334 UGFzc3dvcmQ6")
            password = base64.b64decode(self.line()).decode()
        if [user, password] == OPTIONS.get("--auth"):
            self.user = user
            self.say("235 welcome")
        else:
            self.say("535 5.7.8 wrong user or password")

    def do_mail(self, rest):
        if "--auth" in OPTIONS and not self.user:
            return self.say("530 5.7.0 log in first")
        self.mail = {"from": rest.split("<")[1].split(">")[0], "to": []}
        self.say("250 ok")

    def do_rcpt(self, rest):
        to = rest.split("<")[1].split(">")[0]
        if to.startswith("code-"):
            return self.say(to[5:8] + " no such luck")
        self.mail["to"].append(to)
        self.say("250 ok")

    def do_data(self, _):
        self.say("354 go on")
        lines = []
        while (line := self.rfile.readline()) not in (b".\r\n", b""):
            lines.append(line[1:] if line.startswith(b".") else line)
        if self.mail["from"].startswith("code-"):
            return self.say(self.mail["from"][5:8] + " not now")
        message = b"".join(lines).decode("utf-8", "replace")
        tell({**self.mail, "message": message, "secure": self.secure, "user": self.user})
        self.say("250 taken as 42")

    def do_rset(self, _):
        self.say("250 ok")

    def do_noop(self, _):
        self.say("250 ok")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that went away is what some tests are about."""


def main():
    name = None
    for argument in sys.argv[1:]:
        if argument.startswith("--"):
            name = argument
            OPTIONS[name] = []
        else:
            OPTIONS[name].append(argument)
    with Server(("127.0.0.1", 0), Session) as server:
        print(server.server_address[1], flush=True)
        # The end of standard input is the end of the test.
        threading.Thread(target=lambda: (sys.stdin.read(), server.shutdown())).start()
        server.serve_forever()


main()
