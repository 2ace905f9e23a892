"""A text that is seen as it grows, an answer token by token: its parts are live only, the whole is one durable event.

Each part is a partial event, whose data is ``{"stream", "offset", "text"}``; offsets count characters (code points).
A reader puts parts of one `stream` together, begins anew at offset 0 (another attempt), and replaces all of it by the
event, whose data is ``{"text", "stream"}``. It may miss parts, as where it comes late, and never the event. An attempt
that is over, although it does not know yet, shows nothing more.

In a step's function: the step is what is kept. An attempt that dies before its output is on disk does it all again,
with the parts; if the event was already on disk, it stays as it is, and nothing is sent again. In a workflow's body the
code is repeated on every attempt, also after each rest, and so is the model's call; once the event is on disk, in
silence. Nothing holds the run there either: while another branch waits, the text is cut short. So call models in steps.
"""

from __future__ import annotations

from types import TracebackType

from howdah.jobs.workflow.emitter import MAX_EVENT_BYTES, Emitter
from howdah.jobs.workflow.history import current_step
from howdah.sql.errors import BadValue, TooLarge
from howdah.sql.json_values import encode
from howdah.sql.queue.calls import ClaimedRun
from howdah.sql.stream.partial_sender import PartialSender, PartialText

MAX_NAME = 200


class TextStream:
    """An asynchronous context, `Run.stream`: within it `write`; at its end the whole text is emitted.

    An exception within it emits nothing. Errors at its end are those of `Run.emit`.
    """

    def __init__(
        self, emitter: Emitter, sender: PartialSender | None, claimed: ClaimedRun, type: str, name: str | None
    ) -> None:
        if name is None:
            name = f"{current_step()}/{type}".removeprefix("/")
        for what, given in (("type", type), ("name", name)):
            if not 0 < len(given) <= MAX_NAME or "\0" in given:
                raise BadValue(f"the {what} {given!r} of a stream cannot be used: 1 to {MAX_NAME} characters, no NUL")
        self._emitter = emitter
        self._sender = sender
        self._claimed = claimed
        self._type = type
        self._name = name
        self._stream = ""
        self._whole: list[str] = []
        self._bytes = 0
        self._live: PartialText | None = None
        self._open = False

    def write(self, text: str) -> None:
        """Add to the text. Never waits: what comes within 20 ms goes together.

        Raises
        ------
        TooLarge
            If the whole, as JSON, is above an event's 256 KiB; the part is not added.
        BadValue
            For a NUL or a lone surrogate.
        ValueError
            Outside of the context.
        """
        if not self._open:
            raise ValueError(f"the text {self._name!r} is not open: write to it within its `async with`")
        added = len(encode(text, f"text of {self._stream!r}", MAX_EVENT_BYTES).encode()) - 2
        if self._bytes + added > MAX_EVENT_BYTES:
            raise TooLarge(
                f"the text {self._stream!r} would be {self._bytes + added:,} bytes of JSON, the limit is"
                f" {MAX_EVENT_BYTES:,}: end it, and go on in another"
            )
        self._bytes += added
        self._whole.append(text)
        if self._live is not None:
            self._live.write(text)

    async def __aenter__(self) -> TextStream:
        if self._stream:
            raise ValueError(f"the text {self._stream!r} was written: ask run.stream() for another")
        self._stream = self._emitter.open_stream(self._name)
        self._bytes = len(self._body("").encode())
        if not self._emitter.has_emitted(self._known_by):
            self._live = PartialText(self._sender, self._claimed, self._type, self._stream)
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        if self._live is None:
            return
        if error is not None:
            self._live.drop()
            self._emitter.give_back(self._stream)
            return
        # Its parts first, or they would come behind the whole.
        await self._live.sent()
        await self._emitter.write(self._type, self._body("".join(self._whole)), self._known_by)

    @property
    def _known_by(self) -> str:
        # By its place: a model that is asked again says something else.
        return f"stream/{self._stream}"

    def _body(self, text: str) -> str:
        return encode({"text": text, "stream": self._stream}, f"the text {self._stream!r}", MAX_EVENT_BYTES)
