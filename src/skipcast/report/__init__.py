"""Reports as a pure function of the records of a comparison; nothing here measures."""

from skipcast.bench.records import read as read
from skipcast.bench.results import Results as Results
from skipcast.bench.results import Row as Row
from skipcast.bench.results import load as load
from skipcast.bench.results import of as of
from skipcast.bench.results import summarise as summarise
from skipcast.report.charts import pareto_svg as pareto_svg
from skipcast.report.charts import traces_svg as traces_svg
from skipcast.report.grid import grid as grid
from skipcast.report.page import html as html
from skipcast.report.page import is_page as is_page
from skipcast.report.page import write as write
from skipcast.report.page import write_page as write_page
from skipcast.report.tables import markdown as markdown
from skipcast.report.tables import table as table
