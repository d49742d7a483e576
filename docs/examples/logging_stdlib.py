import logging.config

LOGGING = {
    "version": 1,
    # Keep the loggers of other libraries that were imported before this.
    "disable_existing_loggers": False,
    "formatters": {
        "planwatch": {
            "()": "logging.Formatter",
            "fmt": "%(levelname)s %(message)s\n"
            "  id=%(planwatch_id)s severity=%(planwatch_severity)s verdict=%(planwatch_verdict)s\n"
            "  tables=%(planwatch_tables)s endpoint=%(planwatch_endpoint)s\n"
            "  file=%(code.file.path)s line=%(code.line.number)s",
            # PlanWatch also logs records without these fields, such as that of a Skip.
            "defaults": {
                "planwatch_id": None,
                "planwatch_severity": None,
                "planwatch_verdict": None,
                "planwatch_tables": None,
                "planwatch_endpoint": None,
                "code.file.path": None,
                "code.line.number": None,
            },
        },
    },
    "handlers": {
        "planwatch": {"class": "logging.StreamHandler", "formatter": "planwatch"},
    },
    "loggers": {
        # INFO: also findings of severity info, and resolved ones.
        "flask_planwatch": {"level": "INFO", "handlers": ["planwatch"], "propagate": False},
    },
}

logging.config.dictConfig(LOGGING)
