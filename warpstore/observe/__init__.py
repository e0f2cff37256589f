"""What a store shows of itself: statistics, Prometheus metrics, OpenTelemetry spans, log events (README.md).

None of it is on the way of a get or a put: statistics are read off the parts when they are asked for, metrics are made
of statistics when they are scraped, spans and events come where something takes time or goes wrong.
"""
