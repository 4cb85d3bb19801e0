"""Fonts for class names in any script: which installed font has the letters, and text drawn with several of them.

`search.py` finds fonts, `text.py` cuts a text into parts that one font each can draw and says what to show in place of
a name that none can, `figure.py` does the same for matplotlib.
"""

from rtdetr.fonts.search import given_face as given_face
from rtdetr.fonts.text import FontPath as FontPath
from rtdetr.fonts.text import TextLine as TextLine
from rtdetr.fonts.text import cut as cut
from rtdetr.fonts.text import lay_out as lay_out
from rtdetr.fonts.text import shown_names as shown_names
