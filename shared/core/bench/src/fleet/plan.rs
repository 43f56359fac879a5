//! Who there is, and who follows what: names and numbers of a fleet, the same in every run.

/// How large the fleet is. Instance `n` is one of service `n / per_service`, and registered by host `n % hosts`.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// All of them.
    pub instances: usize,
    /// Instances of a service.
    pub per_service: usize,
    /// Connections, each of which registers and follows.
    pub hosts: usize,
    /// Services that a host follows.
    pub follows: usize,
}

impl Plan {
    /// How many services there are.
    pub const fn services(&self) -> usize {
        self.instances.div_ceil(self.per_service)
    }

    /// The instances that a host registers.
    pub fn registers(&self, host: usize) -> impl Iterator<Item = usize> + use<> {
        (host..self.instances).step_by(self.hosts)
    }

    /// The services that a host follows: spread evenly, so that all have as many followers, or nearly.
    pub fn followed(&self, host: usize) -> Vec<usize> {
        let services = self.services();
        let follows = self.follows.min(services);
        let mut found: Vec<usize> = (0..follows).map(|k| (host + k * services / follows) % services).collect();
        found.sort_unstable();
        found
    }

    /// The numbers of a service's instances.
    pub fn of_service(&self, service: usize) -> std::ops::Range<usize> {
        service * self.per_service..self.instances.min((service + 1) * self.per_service)
    }
}

/// The name of a service.
pub fn service_name(service: usize) -> String {
    format!("service-{service}")
}

/// The id of an instance.
pub fn instance_id(instance: usize) -> String {
    format!("host-{instance}-18080")
}

/// Where an instance is in one of its lives.
pub fn address_of(instance: usize, epoch: u64) -> String {
    format!("10.{}.{}.{}:{}", instance >> 16 & 0xff, instance >> 8 & 0xff, instance & 0xff, 1024 + epoch % 60_000)
}

/// The id of the instance that has that address in one of its first lives, and which one.
pub fn instance_at(host: &str, port: u64) -> Option<(String, u64)> {
    let mut parts = host.split('.').map(str::parse::<u8>);
    let Some(Ok(10)) = parts.next() else { return None };
    let number = parts.try_fold(0_usize, |sum, part| part.ok().map(|part| sum << 8 | usize::from(part)))?;
    Some((instance_id(number), port.checked_sub(1024)?))
}

/// The service that has that name.
pub fn service_of(name: &str) -> Option<usize> {
    name.strip_prefix("service-")?.parse().ok()
}

/// The instance that has that id.
pub fn instance_of(id: &str) -> Option<usize> {
    id.strip_prefix("host-")?.strip_suffix("-18080")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Plan, address_of, instance_at, instance_id, instance_of, service_name, service_of};

    #[test]
    fn every_service_has_as_many_followers() {
        for (instances, hosts) in [(100, 10), (300, 30), (1_000, 100), (10_000, 1_000)] {
            let plan = Plan { instances, per_service: 50, hosts, follows: 20 };
            let mut followers = vec![0_usize; plan.services()];
            for host in 0..hosts {
                let mut followed = plan.followed(host);
                followed.dedup();
                assert_eq!(followed.len(), 20.min(plan.services()));
                for service in followed {
                    if let Some(count) = followers.get_mut(service) {
                        *count += 1;
                    }
                }
            }
            let (least, most) = (followers.iter().min(), followers.iter().max());
            assert!(least == most, "{instances}: {least:?} to {most:?}");
        }
    }

    #[test]
    fn every_instance_has_one_host() {
        let plan = Plan { instances: 103, per_service: 50, hosts: 10, follows: 20 };
        let mut all: Vec<usize> = (0..10).flat_map(|host| plan.registers(host)).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..103));
        assert_eq!((plan.services(), plan.of_service(2)), (3, 100..103));
    }

    #[test]
    fn names_are_read_back() {
        assert_eq!((service_of(&service_name(7)), instance_of(&instance_id(9_999))), (Some(7), Some(9_999)));
        let address = address_of(70_001, 9);
        let found = address.split_once(':').and_then(|(host, port)| instance_at(host, port.parse().ok()?));
        assert_eq!(found, Some((instance_id(70_001), 9)));
        assert_eq!((service_of("*"), instance_of("host-x-18080")), (None, None));
    }
}
