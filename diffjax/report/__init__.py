"""Stage `report`: records, tables, result pages and figures."""

from ._figure import write_figure as write_figure
from ._layout import Table as Table
from ._layout import markdown_table as markdown_table
from ._layout import text_table as text_table
from ._page import write_page as write_page
from ._picture import Answer as Answer
from ._picture import Comparison as Comparison
from ._picture import Ranking as Ranking
from ._readme import caption as caption
from ._readme import fill_tables as fill_tables
from ._records import append_record as append_record
from ._records import environment as environment
from ._records import make_record as make_record
from ._records import read_records as read_records
from ._table import difference_table as difference_table
from ._table import mean_ap_table as mean_ap_table
from ._table import measurement_tables as measurement_tables
