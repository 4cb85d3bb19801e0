"""Fonts for class names in any script: find installed fonts with the characters, and draw text with several fonts.

`search.py` finds fonts, `text.py` splits a text into parts with one font each and replaces names that no font can draw,
and `figure.py` does the same for matplotlib.
"""

from rtdetr.fonts.search import given_face as given_face
from rtdetr.fonts.text import FontPath as FontPath
from rtdetr.fonts.text import TextLine as TextLine
from rtdetr.fonts.text import cut as cut
from rtdetr.fonts.text import lay_out as lay_out
from rtdetr.fonts.text import shown_names as shown_names
