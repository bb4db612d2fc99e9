"""`python -m tests.compat` writes docs/compat.md."""

from tests.compat.sections import SECTIONS
from tests.compat.table import PAGE, render

PAGE.write_text(render(SECTIONS))
