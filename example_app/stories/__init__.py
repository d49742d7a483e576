"""The five stories, one file each: its tables and rows, the slow query, its twin, and the fix."""

from __future__ import annotations

from ..story import Story
from . import covering_index, feed, login, monitoring, optional_filter

STORIES: dict[str, Story] = {
    module.STORY.name: module.STORY
    for module in (login, optional_filter, monitoring, covering_index, feed)
}
