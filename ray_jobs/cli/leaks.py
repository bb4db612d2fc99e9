"""`minibert data check --leaks`: what files of different splits share, as a table or as JSON."""

from __future__ import annotations

from lightning_modules.progress import Progress
from multitask.recipe.data_check import place_to_check
from multitask.recipe.leaks import HEADER, example_lines, find_leaks, read_files, table_rows
from ray_jobs.screen import Screen


def show_leaks(uri: str, data: str | None, screen: Screen) -> None:
    """Shows which texts, and which whole pairs, the files of the tasks' different splits share. Raises UserError where
    there are not two splits, or a file cannot be read."""

    def tell(doing: str, done: int, total: int) -> None:
        screen.progress(Progress("leaks", doing, 0, 0, done, total))

    place = place_to_check(uri, data)
    files = read_files(place, tell)
    found = find_leaks(files, tell)
    screen.end_line()
    if screen.as_json:
        named = [{"name": file.name, "path": file.source, "rows": len(file.ids)} for file in files]
        screen.document({"data": place.uri, "files": named, "leaks": [leak.to_json() for leak in found]})
        return
    if not found:
        screen.say(f"{place.uri}: no two splits share a text: {', '.join(file.name for file in files)}")
        return
    screen.table(HEADER, table_rows(found), title=f"what splits share, of {place.uri}")
    screen.say("\n".join(example_lines(found)))
