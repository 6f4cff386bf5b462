"""COCO's captions: an object with ``images`` and ``annotations`` (https://cocodataset.org/#format-data)."""

from typing import Any

from captioner.data.readers.fields import Id, caption_text, image_name, picture_id, split_name
from captioner.data.readers.formats import READERS, Entry, Format, Source
from captioner.errors import DataError


@READERS.register("coco")
class Coco(Format):
    """``captions_*.json``. The field ``split`` of an image is this project's own, and may be missing."""

    patterns = ("captions*.json",)

    def recognises(self, source: Source) -> bool:
        return isinstance(source.json, dict) and isinstance(source.json.get("annotations"), list)

    def entries(self, source: Source) -> list[Entry]:
        images = source.json.get("images") or []
        if not isinstance(images, list):
            raise DataError(f"{source.path}: 'images' is {images!r:.40}, not a list")
        listed: dict[Id, tuple[str, dict[str, Any]]] = {}
        for number, image in enumerate(images):
            place = f"{source.path}, image {number}"
            key = picture_id(image, place, ("id",))
            if key in listed:
                raise DataError(
                    f"{place}: a second picture with the id {key!r}; the first is at {listed[key][0]}",
                    remedy="give each its own id",
                )
            listed[key] = (place, image)
        captions = self._captions(source, listed)
        return [
            Entry(
                place=place,
                id=key,
                image=image_name({"file_name": image.get("file_name")}),
                captions=tuple(captions.get(key, ())),
                split=split_name(image["split"], place) if "split" in image else None,
            )
            for key, (place, image) in listed.items()
        ]

    def _captions(self, source: Source, listed: dict[Id, tuple[str, dict[str, Any]]]) -> dict[Id, list[str]]:
        """The captions by picture. Where the file lists no images, those of its annotations are added to ``listed``."""
        lists_images = bool(listed)
        captions: dict[Id, list[str]] = {}
        places: dict[str, str] = {}
        for number, annotation in enumerate(source.json["annotations"]):
            place = f"{source.path}, annotation {number}"
            key = picture_id(annotation, place, ("image_id",))
            if lists_images and key not in listed:
                raise DataError(f"{place}: picture {key!r} is not among the file's images")
            listed.setdefault(key, (place, {}))
            if annotation.get("id") is not None:
                own = str(picture_id(annotation, place, ("id",)))  # 7 and "7" are one
                if own in places:
                    raise DataError(
                        f"{place}: a second annotation with the id {own}; the first is at {places[own]}",
                        remedy="give each its own id",
                    )
                places[own] = place
            captions.setdefault(key, []).append(caption_text(annotation, place, key))
        return captions
