"""A repository of the Hugging Face hub that an export is pushed to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from multitask.errors import UserError
from multitask.model.sources import HUB_ID

SECONDS = 30.0  # that the hub may be silent; its client would wait for good


class Hub:
    """A repository of the hub, for the owner of the environment's token (HF_TOKEN, or what `hf auth login` kept).

    Raises UserError where there is no token, where it is refused, and where the hub does not answer.
    """

    def __init__(self, repository: str) -> None:
        import huggingface_hub

        if not HUB_ID.fullmatch(repository):
            raise UserError(f"--push '{repository}': a repository of the hub is USER/NAME")
        if huggingface_hub.get_token() is None:
            raise UserError(
                f"--push '{repository}': no token: set HF_TOKEN to one that may write, or run hf auth login"
            )
        self.repository, self.api = repository, huggingface_hub.HfApi()
        huggingface_hub.get_session().timeout = SECONDS
        with self._said():
            self.api.whoami()

    def push(self, folder: Path) -> str:
        """Pushes every file of the folder in one commit, and returns the repository's URL; one that is not there yet
        is made, private."""
        with self._said():
            made = self.api.create_repo(self.repository, private=True, exist_ok=True)
            self.api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message="minibert export")
            return str(made)

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if type(error).__module__ == "builtins" and not isinstance(error, OSError):
                raise  # a mistake of this program
            reason = next(iter(str(error).splitlines()), "")
            raise UserError(
                f"--push '{self.repository}': {self.api.endpoint} did not take it: {type(error).__name__}: {reason}; "
                f"it needs the network, and a HF_TOKEN that may write there"
            ) from error
