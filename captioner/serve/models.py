"""The models that a server offers: the one that it was started with, and those that ship, loaded on first use."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.errors import CheckpointError, OptionError
from captioner.serve.problems import Problem, fault
from captioner.shipped import DEFAULT_MODEL
from captioner.show.page import shown
from captioner.tokenizer.vocabulary import SPECIAL

if TYPE_CHECKING:
    from captioner.pipeline import Captioner


class Models:
    """Models by name.

    Args:
        given: the name or path of the default one, which is loaded at once.
        device: where they compute: "auto", "cpu", "cuda", "cuda:1", "mps".
        backend, threads, map_heads: as of `captioner.pipeline.load`.

    Raises:
        CheckpointError: there is no such model, or its file is damaged.
        OptionError: there is no such device.
    """

    def __init__(
        self,
        given: str,
        *,
        device: str = "auto",
        backend: str = "auto",
        threads: int | None = None,
        map_heads: str = "",
    ) -> None:
        from captioner.foreign import is_foreign, name_of
        from captioner.pipeline import load
        from captioner.shipped import find_model, shipped_models

        path = find_model(given)
        self.default = shown(name_of(path))
        given_to = {"backend": backend, "map_heads": map_heads}  # the default model
        self.how: dict[str, Any] = {"device": device, "backend": backend, "threads": threads}
        if is_foreign(path):
            self.how["backend"] = "auto"  # its own runs none of ours
        self.paths: dict[str, Path] = {self.default: path}
        for name, shipped in shipped_models().items():
            self.paths.setdefault(name, shipped)
        model = load(path, **{**self.how, **given_to})
        model.name = self.default  # its captions are sent as text, and the file's name may be none
        self._loaded: dict[str, Captioner] = {self.default: model}
        self._loading: dict[str, asyncio.Task[Captioner]] = {}
        self._facts: dict[str, dict[str, Any]] = {}

    async def get(self, name: str | None) -> "Captioner":
        """A model, None for the default one.

        Raises:
            Problem: 422, there is no model of this name; 500, its file is damaged; 501, it does not run with this
                server's options.
        """
        if name is None or (name == DEFAULT_MODEL and name not in self.paths):
            name = self.default
        if name in self._loaded:
            return self._loaded[name]
        if name not in self.paths:
            detail = f"model: none is called '{name[:60]}'; there are {', '.join(self.paths)}"
            raise Problem(422, "invalid-options", detail)
        if name not in self._loading:
            self._loading[name] = task = asyncio.create_task(self._load(name))
            task.add_done_callback(lambda task: task.cancelled() or task.exception())  # its clients may have left
        return await asyncio.shield(self._loading[name])  # others may wait for it too

    async def _load(self, name: str) -> "Captioner":
        from captioner.pipeline import load

        try:
            self._loaded[name] = await asyncio.to_thread(load, self.paths[name], **self.how)
            return self._loaded[name]
        except CheckpointError as error:
            fault(error)
            raise Problem(500, "damaged-model", f"the file of the model '{name}' is damaged") from None
        except OptionError as error:
            raise Problem(501, "not-available", f"this server cannot run the model '{name}': {error}") from None
        finally:
            del self._loading[name]

    def describe(self) -> list[dict[str, Any]]:
        """What is known about each model; the default one first. Reads the headers of their files."""
        return [{"name": name, "default": name == self.default, **self._describe(name)} for name in self.paths]

    def _describe(self, name: str) -> dict[str, Any]:
        from captioner.header import read_header

        if name not in self._facts:
            try:
                header = read_header(self.paths[name])
            except CheckpointError:  # it was there when the server started
                return {"damaged": True}
            about = header["about"]
            self._facts[name] = {
                "encoder": header["config"].get("encoder", {}).get("backbone"),
                "decoder": header["config"].get("decoder", {}).get("kind"),
                "words": len(header["vocabulary"]) - len(SPECIAL),
                "decoding": about.get("decoding", {}),
                "test": about.get("test", {}),
            }
        return self._facts[name]
