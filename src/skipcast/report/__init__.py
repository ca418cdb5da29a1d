"""Reports as a pure function of the records of a comparison; nothing here measures, nothing else draws."""

from skipcast.report.folder import write as write
from skipcast.report.folder import write_page as write_page
from skipcast.report.folder import write_picture as write_picture
from skipcast.report.folder import write_records as write_records
from skipcast.report.load import Results as Results
from skipcast.report.load import load as load
from skipcast.report.page import html as html
from skipcast.report.pictures import grid as grid
from skipcast.report.plot import pareto_svg as pareto_svg
from skipcast.report.records import read as read
from skipcast.report.states import by_state as by_state
from skipcast.report.summary import Row as Row
from skipcast.report.summary import summaries as summaries
from skipcast.report.summary import summarise as summarise
from skipcast.report.tables import markdown as markdown
from skipcast.report.tables import table as table
from skipcast.report.traces import traces_svg as traces_svg
