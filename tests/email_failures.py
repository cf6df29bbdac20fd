"""What a mail server can do at each point, and what we record and do then: the data of a test and of a document.

`python -m tests.email_failures` prints the document's table.
"""

from dataclasses import dataclass, field

from tests.smtp_servers import Act, Script

#: When the next attempt is due.
SOON, BACK_OFF, LONGEST, NEVER = "soon", "back-off", "longest", "never"

LOGIN = "smtp://user:secret@{at}?tls=none"
AUTH = "250-x\r\n250 AUTH PLAIN"


@dataclass(frozen=True)
class Case:
    """One row: a point of the dialogue, what the server does there, and the consequences."""

    point: str
    does: str
    script: Script
    reason: str | None
    last_error: str | None
    due: str
    url: str = "smtp://{at}?tls=none"
    address: str = "reader@example.com"
    during: Act | None = None
    server: str = "scripted"
    """`none`: nobody listens. `full`: its queue is. `tls`: scripted, with a certificate."""
    options: dict[str, str] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """What the row says afterwards."""
        return "sent" if self.reason is None else "failed" if self.due == NEVER else "pending"

    @property
    def counted(self) -> bool:
        """Whether the attempt counts."""
        return self.due != SOON

    @property
    def noticed(self) -> bool:
        """Whether the circuit breaker counts it as a failure of the server."""
        return self.due == SOON or self.reason in ("throttled", "misconfigured")


def transient(point: str, does: str, step: str, answer: str | Act, error: str) -> Case:
    return Case(point, does, {step: answer}, "transient", error, BACK_OFF)


CASES = [
    Case("connect", "refuses the connection", {}, "transient", "connect: connection refused", SOON, server="none"),
    Case("connect", "has no address (DNS)", {}, "transient", "connect: host name not found", SOON, "smtp://nowhere.invalid:{port}?tls=none"),
    Case("connect", "does not answer", {}, "transient", "connect: no answer in time", SOON, server="full"),
    Case("TLS", "has a certificate that we do not trust", {"starttls": "220 go"}, "misconfigured", "TLS: unable to get local issuer certificate", SOON, "smtp://{at}?tls=required", server="tls"),
    Case("TLS", "answers the handshake with something else", {"starttls": "220 go", "ehlo": "250-x\r\n250 STARTTLS"}, "misconfigured", "TLS: WRONG_VERSION_NUMBER", SOON, "smtp://{at}?tls=required"),
    Case("greeting", "421", {"greeting": "421 4.3.2 closing"}, "throttled", "greeting: 421 4.3.2 closing", SOON),
    Case("greeting", "4yz", {"greeting": "450 not now"}, "transient", "greeting: 450 not now", SOON),
    Case("greeting", "5yz", {"greeting": "554 no service"}, "misconfigured", "greeting: 554 no service", SOON),
    Case("greeting", "is no SMTP server", {"greeting": "HTTP/1.1 400 Bad Request"}, "transient", "greeting: not an SMTP reply", SOON),
    Case("greeting", "cuts the connection", {"greeting": Act.CUT}, "transient", "greeting: connection closed", SOON),
    Case("greeting", "accepts, then says nothing", {"greeting": Act.STALL}, "transient", "greeting: no answer in time", SOON),
    Case("EHLO", "421", {"ehlo": "421 closing"}, "throttled", "EHLO: 421 closing", SOON),
    Case("EHLO", "4yz", {"ehlo": "451 not now"}, "transient", "EHLO: 451 not now", SOON),
    Case("EHLO", "5yz, and takes HELO", {"ehlo": "502 what?"}, None, None, NEVER),
    Case("EHLO", "5yz, also to HELO", {"ehlo": "550 bad name", "helo": "550 bad name"}, "misconfigured", "EHLO: 550 bad name", SOON),
    Case("EHLO", "says nothing", {"ehlo": Act.STALL}, "transient", "EHLO: no answer in time", SOON),
    Case("STARTTLS", "does not offer it, and we require it", {}, "misconfigured", "STARTTLS: the server does not offer it", SOON, "smtp://{at}?tls=required"),
    Case("STARTTLS", "4yz", {"ehlo": "250-x\r\n250 STARTTLS", "starttls": "454 not now"}, "transient", "STARTTLS: 454 not now", SOON, "smtp://{at}?tls=required"),
    Case("STARTTLS", "5yz", {"ehlo": "250-x\r\n250 STARTTLS", "starttls": "554 no"}, "misconfigured", "STARTTLS: 554 no", SOON, "smtp://{at}?tls=required"),
    Case("AUTH", "offers no login that we know", {}, "misconfigured", "AUTH: the server offers neither PLAIN nor LOGIN", SOON, LOGIN),
    Case("AUTH", "535, wrong password", {"ehlo": AUTH, "auth": "535 5.7.8 wrong"}, "misconfigured", "AUTH: 535 5.7.8 wrong", SOON, LOGIN),
    Case("AUTH", "4yz", {"ehlo": AUTH, "auth": "454 4.7.0 later"}, "transient", "AUTH: 454 4.7.0 later", SOON, LOGIN),
    Case("AUTH", "says nothing", {"ehlo": AUTH, "auth": Act.STALL}, "transient", "AUTH: no answer in time", SOON, LOGIN),
    Case("MAIL", "421", {"mail": "421 4.7.0 too many"}, "throttled", "MAIL: 421 4.7.0 too many", BACK_OFF),
    transient("MAIL", "4yz", "mail", "451 4.3.0 later", "MAIL: 451 4.3.0 later"),
    Case("MAIL", "452, or 450 or 451 with 4.7.z", {"mail": "452 4.3.1 no space"}, "throttled", "MAIL: 452 4.3.1 no space", BACK_OFF),
    Case("MAIL", "5yz (our sender is refused)", {"mail": "550 5.7.1 not you"}, "misconfigured", "MAIL: 550 5.7.1 not you", LONGEST),
    Case("MAIL", "552, or 5.3.4: too large", {"mail": "552 5.3.4 too large"}, "permanent", "MAIL: 552 5.3.4 too large", NEVER),
    Case("MAIL", "declares a SIZE below the email's", {"ehlo": "250-x\r\n250 SIZE 100"}, "permanent", "MAIL: the message is larger than the server's SIZE", NEVER),
    Case("MAIL", "offers no SMTPUTF8, and the address needs it", {"ehlo": "250 x"}, "permanent", "MAIL: the address needs SMTPUTF8, which the server lacks", NEVER, address="jürgen@example.com"),
    Case("MAIL", "says nothing, or cuts the connection", {"mail": Act.STALL}, "transient", "MAIL: no answer in time", SOON),
    Case("RCPT", "421", {"rcpt": "421 closing"}, "throttled", "RCPT: 421 closing", BACK_OFF),
    transient("RCPT", "4yz", "rcpt", "450 4.2.1 busy", "RCPT: 450 4.2.1 busy"),
    Case("RCPT", "452, or 450 or 451 with 4.7.z (greylisting)", {"rcpt": "450 4.7.1 greylisted"}, "throttled", "RCPT: 450 4.7.1 greylisted", BACK_OFF),
    Case("RCPT", "530, 534, 535 or 538: wants a login", {"rcpt": "530 5.7.0 log in"}, "misconfigured", "RCPT: 530 5.7.0 log in", LONGEST),
    Case("RCPT", "5.1.1, 5.1.2, 5.1.3, 5.1.6 or 5.1.10: no such address", {"rcpt": "550 5.1.1 who?"}, "permanent", "RCPT: 550 5.1.1 who?", NEVER),
    Case("RCPT", "any other 5yz (policy, full, unknown)", {"rcpt": "550 5.7.1 policy"}, "permanent", "RCPT: 550 5.7.1 policy", NEVER),
    transient("RCPT", "cuts the connection", "rcpt", Act.CUT, "RCPT: connection closed"),
    transient("RCPT", "says nothing", "rcpt", Act.STALL, "RCPT: no answer in time"),
    Case("DATA", "421", {"data": "421 closing"}, "throttled", "DATA: 421 closing", BACK_OFF),
    transient("DATA", "4yz", "data", "451 later", "DATA: 451 later"),
    Case("DATA", "5yz", {"data": "554 no valid recipients"}, "permanent", "DATA: 554 no valid recipients", NEVER),
    transient("DATA", "cuts the connection before the content", "data", Act.CUT, "DATA: connection closed"),
    transient("DATA", "says nothing", "data", Act.STALL, "DATA: no answer in time"),
    Case("DATA", "cuts the connection during the content", {}, "transient", "DATA: connection closed", BACK_OFF, during=Act.RESET),
    Case("end of DATA", "421", {"content": "421 closing"}, "throttled", "end of DATA: 421 closing", BACK_OFF),
    transient("end of DATA", "4yz", "content", "451 4.3.0 later", "end of DATA: 451 4.3.0 later"),
    Case("end of DATA", "5yz (content, size, policy)", {"content": "554 5.7.1 spam"}, "permanent", "end of DATA: 554 5.7.1 spam", NEVER),
    Case("end of DATA", "cuts the connection after the content", {"content": Act.CUT}, "unknown", "end of DATA: connection closed", BACK_OFF),
    Case("end of DATA", "takes the content, then says nothing", {"content": Act.STALL}, "unknown", "end of DATA: no answer in time", BACK_OFF),
    Case("end of DATA", "250", {}, None, None, NEVER),
    Case("QUIT", "whatever it does", {"quit": Act.CUT}, None, None, NEVER),
]  # fmt: skip


def table() -> str:
    """The document's table."""
    words = {SOON: "soon", BACK_OFF: "after the back-off", LONGEST: "after the longest wait", NEVER: ""}
    lines = [
        "| point | the server | status | reason | next attempt | attempt counts | for the breaker | `last_error` |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in CASES:
        counted, noticed = "yes" if one.counted else "no", "a failure" if one.noticed else ""
        reason, error = (f"`{value}`" if value else "" for value in (one.reason, one.last_error))
        cells = [one.point, one.does, f"`{one.status}`", reason, words[one.due], counted, noticed, error]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table())
