"""A worker of this installation's gateway, as its supervisor starts it: logs as the settings say."""

from tasks.endpoints.worker import main
from tasks.logs import set_up_logging
from tasks.settings import settings

if __name__ == "__main__":
    set_up_logging(settings())
    main()
