"""Where artifacts go for people elsewhere: a Hub, written to by the real client. No Prefect in here.

    remote.py      one repository: what stands in it, and the three calls that change it
    publish.py     what is still to do, found out from the repository alone, and done
    signing.py     a signature over all files (OpenSSF model-signing), where that package is installed
    __main__.py    one publication in a process of its own: the client takes its switches at import

Reading, its time-outs and the client's errors are those of ``tasks.sources``, which also sets the client's switches.
"""

import tasks.sources  # noqa: F401  before any module of this folder imports the client
