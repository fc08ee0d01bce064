"""Stage `report`: records, tables, result pages and figures."""

from diffjax.report._figure import write_figure as write_figure
from diffjax.report._layout import Table as Table
from diffjax.report._layout import markdown_table as markdown_table
from diffjax.report._layout import text_table as text_table
from diffjax.report._page import write_page as write_page
from diffjax.report._picture import Answer as Answer
from diffjax.report._picture import Comparison as Comparison
from diffjax.report._picture import Ranking as Ranking
from diffjax.report._readme import caption as caption
from diffjax.report._readme import fill_tables as fill_tables
from diffjax.report._records import append_record as append_record
from diffjax.report._records import environment as environment
from diffjax.report._records import make_record as make_record
from diffjax.report._records import read_records as read_records
from diffjax.report._table import mean_ap_table as mean_ap_table
