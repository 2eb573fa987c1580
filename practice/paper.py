"""One A4 page as PDF: words in the fonts that every reader of PDF has, grey areas, and squares. Measures in points, from the top left.

By hand, because Debian's reportlab brings 47 packages (50 MB) for it; what is needed of the format is this page of code.
"""

from __future__ import annotations

from practice.server import run

WIDTH, HEIGHT = 595, 842
FONTS = {"plain": "Helvetica", "bold": "Helvetica-Bold", "letters": "Courier-Bold"}


class Page:
    """What is put on it is drawn in that order."""

    def __init__(self, title: str) -> None:
        self._title, self._drawn = title, list[bytes]()

    def words(self, x: float, y: float, text: str, size: float = 9.5, font: str = "plain", white: bool = False) -> None:
        """A line of words, its base line at `y`. What is not Latin has no letters in these fonts, and becomes question marks."""
        self._draw(f"BT /{font} {size} Tf {1 if white else 0} g {x} {HEIGHT - y:.2f} Td ({escaped(text)}) Tj ET")

    def area(self, x: float, y: float, width: float, height: float, grey: float = 0.92) -> None:
        """An area; grey 0 is black, 1 is white."""
        self._draw(f"{grey} g {x} {HEIGHT - y - height:.2f} {width} {height} re f")

    def rule(self, x: float, y: float, width: float) -> None:
        """A thin line to the right."""
        self.area(x, y, width, 0.6, grey=0.4)

    def code(self, x: float, y: float, width: float, text: str) -> None:
        """`text` as a QR code, `width` wide; what lies around it must be white. Raises Trouble."""
        rows = matrix(text)
        side = width / len(rows)
        runs = [
            f"{x + start * side:.3f} {HEIGHT - y - (row + 1) * side:.3f} {length * side:.3f} {side:.3f} re"
            for row, dots in enumerate(rows)
            for start, length in dark(dots)
        ]
        self._draw(" ".join(["0 g", *runs, "f"]))

    def pdf(self) -> bytes:
        """The file."""
        content = b"\n".join(self._drawn)
        kind = "/Type /Font /Subtype /Type1 /Encoding /WinAnsiEncoding"
        fonts = " ".join(f"/{name} << {kind} /BaseFont /{font} >>" for name, font in FONTS.items())
        bodies = [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {WIDTH} {HEIGHT}] /Contents 4 0 R".encode()
            + f" /Resources << /Font << {fonts} >> >> >>".encode(),
            b"<< /Length %d >>\nstream\n%b\nendstream" % (len(content), content),
            f"<< /Title ({escaped(self._title)}) /Producer (Cabinet) >>".encode("cp1252"),
        ]
        file, places = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n", []
        for number, body in enumerate(bodies, 1):
            places.append(len(file))
            file += b"%d 0 obj\n%b\nendobj\n" % (number, body)
        table = "".join(f"{place:010} 00000 n \n" for place in places)
        end = f"xref\n0 {len(bodies) + 1}\n0000000000 65535 f \n{table}trailer\n<< /Size {len(bodies) + 1} /Root 1 0 R /Info 5 0 R >>\n"
        return file + f"{end}startxref\n{len(file)}\n%%EOF\n".encode()

    def _draw(self, what: str) -> None:
        self._drawn.append(what.encode("cp1252", errors="replace"))


def escaped(text: str) -> str:
    """Words as PDF writes them between parentheses."""
    return text.encode("cp1252", errors="replace").decode("cp1252").replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")


def matrix(text: str) -> list[list[bool]]:
    """The dots of a QR code, without the white around it; a quarter of them may be lost. By standard input: `ps` shows arguments."""
    rows = run("qrencode", "-t", "ASCII", "-l", "M", "-m", "0", "-o", "-", stdin=text).splitlines()
    return [[dot == "#" for dot in line.ljust(len(rows) * 2)[::2]] for line in rows]


def dark(dots: list[bool]) -> list[tuple[int, int]]:
    """Where the dark runs of a row begin, and how long they are."""
    runs, start = [], 0
    for at, dot in enumerate([*dots, False]):
        if not dot:
            if at > start:
                runs.append((start, at - start))
            start = at + 1
    return runs
