from tests.support.service import service, settings, tenant

__all__ = ["service", "settings", "tenant"]
