from pannier.shared.sidecar import main
from pannier.sidecars.resilience.config import Config
from pannier.sidecars.resilience.service import serve

main("resilience", Config, serve)
