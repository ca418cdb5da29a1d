"""The playground of `skipcast ui`: compare a method or a plan with the unaccelerated run, and make plans.

`model` holds the pipeline, `choices` what can be chosen, `state` what the page of one visitor holds. `drawing` and
`solving` do the work, `panels` turns it into HTML, `handlers` answers the events of the page that `app` lays out, and
`serve` puts it on a port. Only the last three import Gradio.
"""
