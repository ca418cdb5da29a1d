"""The playground of `skipcast ui`.

`choices` and `offers` say what there is, `studio` holds the pipeline, `visitors` what each of them has; `drawing` and
`solving` do the work as `jobs` that tell events, `panels` and `strip` make HTML of them. `desk` answers the page, `app`
lays it out, `serve` puts it on a port; only these import Gradio.
"""
