"""Reports as a pure function of the records of a comparison; nothing here measures, nothing else draws."""

from skipcast.bench.report.folder import write as write
from skipcast.bench.report.folder import write_page as write_page
from skipcast.bench.report.folder import write_picture as write_picture
from skipcast.bench.report.folder import write_records as write_records
from skipcast.bench.report.load import Results as Results
from skipcast.bench.report.load import load as load
from skipcast.bench.report.page import html as html
from skipcast.bench.report.pictures import grid as grid
from skipcast.bench.report.plot import pareto_svg as pareto_svg
from skipcast.bench.report.records import read as read
from skipcast.bench.report.states import by_state as by_state
from skipcast.bench.report.summary import Row as Row
from skipcast.bench.report.summary import summaries as summaries
from skipcast.bench.report.summary import summarise as summarise
from skipcast.bench.report.tables import markdown as markdown
from skipcast.bench.report.tables import table as table
from skipcast.bench.report.traces import traces_svg as traces_svg
