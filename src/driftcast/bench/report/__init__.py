"""Reports as a pure function of the records of a comparison; nothing here measures, nothing else draws."""

from driftcast.bench.report.folder import write as write
from driftcast.bench.report.folder import write_page as write_page
from driftcast.bench.report.folder import write_picture as write_picture
from driftcast.bench.report.folder import write_records as write_records
from driftcast.bench.report.load import Results as Results
from driftcast.bench.report.load import load as load
from driftcast.bench.report.page import html as html
from driftcast.bench.report.pictures import grid as grid
from driftcast.bench.report.plot import pareto_svg as pareto_svg
from driftcast.bench.report.records import read as read
from driftcast.bench.report.states import by_state as by_state
from driftcast.bench.report.summary import Row as Row
from driftcast.bench.report.summary import summaries as summaries
from driftcast.bench.report.summary import summarise as summarise
from driftcast.bench.report.tables import markdown as markdown
from driftcast.bench.report.tables import table as table
from driftcast.bench.report.traces import traces_svg as traces_svg
