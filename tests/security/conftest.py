from live_service import anonymous, other, service, settings, tenant

__all__ = ["anonymous", "other", "service", "settings", "tenant"]
