from pannier.shared import sidecar
from pannier.sidecars.discovery import config, service

sidecar.main("discovery", config.Config, service.serve)
