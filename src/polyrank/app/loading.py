"""What those who wait for an app are told while its ``setup`` runs."""

from __future__ import annotations

from collections.abc import Callable

from polyrank import reports
from polyrank.toolkit import transfer


class Loading:
    """Passes on what the app reports, and between that how far its downloads are.

    How much of ``setup`` a download is only the app knows: the fraction stays what it last said.
    """

    def __init__(self, send: Callable[[reports.Loading], None]) -> None:
        self._send = send
        self._fraction = 0.0
        self.is_over = False

    def note(self, fraction: float, what: str) -> None:
        """The app says how far it is."""
        self._fraction = fraction
        self._send(reports.Loading(fraction, what))

    def note_download(self, progress: transfer.Progress) -> None:
        """A download in the app's process has come so far."""
        transfer.log_progress(progress)
        if not self.is_over:
            self._send(reports.Loading(self._fraction, str(progress)))
