"""When a cron expression fires on the clock of a time zone, also when that clock is changed.

croniter works on a clock that is never changed; the two rules for summer time are here:

- A schedule for certain hours fires once for each time that its expression names. A time that is left out as clocks go
  forward fires at the first moment after the gap; one that comes twice as they go back fires the first time only.
- A schedule for every hour (its hour field is ``*`` or comes to that) fires whenever the clock shows a time that its
  expression names: every five minutes stays every five minutes, through the repeated hour as well.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from croniter import croniter

from howdah.sql.errors import BadSchedule

_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)
# croniter would draw lots anew each time it reads such a field, so that schedulers would not agree.
_RANDOM = re.compile(r"(?:^|[\s,])[hr](?:[(/,\s]|$)", re.IGNORECASE)


class Cron:
    """A cron expression on the clock of a time zone.

    Parameters
    ----------
    text
        Minute, hour, day of month, month, day of week; seconds may follow as a sixth field. Or ``@hourly`` and its kin.
    time_zone
        IANA name.

    Raises
    ------
    BadSchedule
        If there is no such time zone, or the expression cannot be read.
    """

    def __init__(self, text: str, time_zone: str = "UTC") -> None:
        self._text = text
        try:
            self._zone = ZoneInfo(time_zone)
        except (LookupError, ValueError, OSError):
            raise BadSchedule(f"time zone {time_zone!r} is unknown: use an IANA name such as Europe/Berlin") from None
        try:
            if _RANDOM.search(text):
                raise ValueError("H and R stand for a random time")  # noqa: TRY301
            self._croniter = croniter(text)
            fields = self._croniter.expanded
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            raise self._unusable(f"cannot be read: {error}") from None
        if len(fields) > 6:
            raise self._unusable(f"has {len(fields)} fields")
        self._every_hour = fields[1] == ["*"]

    def after(self, moment: datetime) -> datetime:
        """The first moment after `moment` for which it fires, in UTC.

        Raises
        ------
        BadSchedule
            If it never fires again, as on 30 February.
        """
        moment = moment.astimezone(UTC)
        return self._next_shown(moment) if self._every_hour else self._next_named(moment)

    def latest(self, first: datetime, now: datetime) -> datetime:
        """The last moment up to `now` for which it fires; `first` is one of them, and may be long ago."""
        if self.after(first) > now:
            return first
        before, beyond = first, now
        while beyond - before > _SECOND:
            middle = before + (beyond - before) / 2
            if self.after(middle) <= now:
                before = middle
            else:
                beyond = middle
        return self.after(before)

    def _next_named(self, moment: datetime) -> datetime:
        clock = moment.astimezone(self._zone).replace(tzinfo=None)
        while True:
            clock = self._next_time(clock)
            found = self._first_moment(clock)
            if found > moment:
                return found

    def _next_shown(self, moment: datetime) -> datetime:
        start = moment
        while True:
            offset = self._offset(start)
            found = (self._next_time((moment + offset).replace(tzinfo=None)) - offset).replace(tzinfo=UTC)
            change = self._first_change(start, found)
            if change is None:
                return found
            start, moment = change, change - _SECOND

    def _first_moment(self, clock: datetime) -> datetime:
        """When the clock first shows this time, or first a later one."""
        moment = clock.replace(tzinfo=self._zone).astimezone(UTC)
        if moment.astimezone(self._zone).replace(tzinfo=None) == clock:
            return moment
        # In a gap: the offsets of before and after it, fold 0 and 1, lead to its two sides.
        change = self._first_change(clock.replace(tzinfo=self._zone, fold=1).astimezone(UTC), moment)
        assert change is not None
        return change

    def _first_change(self, start: datetime, end: datetime) -> datetime | None:
        """The first moment after `start`, up to `end`, at which the clock is changed."""
        offset = self._offset(start)
        before, beyond = start, min(start + _DAY, end)
        while self._offset(beyond) == offset:
            if beyond == end:
                return None
            before, beyond = beyond, min(beyond + _DAY, end)
        # Clocks are changed at whole seconds.
        while beyond - before > _SECOND:
            middle = before + (beyond - before) / 2
            if self._offset(middle) == offset:
                before = middle
            else:
                beyond = middle
        return beyond.replace(microsecond=0)

    def _offset(self, moment: datetime) -> timedelta:
        offset = moment.astimezone(self._zone).utcoffset()
        assert offset is not None
        return offset

    def _next_time(self, clock: datetime) -> datetime:
        try:
            found: datetime = self._croniter.get_next(datetime, start_time=clock)
        except ValueError:
            raise self._unusable("names no moment that ever comes") from None
        return found

    def _unusable(self, why: str) -> BadSchedule:
        return BadSchedule(
            f"cron {self._text!r} {why}; write five fields, as in '30 9 * * mon-fri', or six with seconds last"
        )
