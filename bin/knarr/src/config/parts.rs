//! The configuration in the words of the parts it configures.

use std::path::Path;

use streaming::TlsFiles;

use super::Config;

impl Config {
    /// For the images and the registries they come from.
    pub(crate) fn image(&self) -> image::Config {
        let registry = registry::Config {
            hosts_dirs: self.registry.config_path.clone(),
            docker_config: self.registry.docker_config.clone(),
            ..registry::Config::default()
        };
        image::Config {
            limits: image::Limits {
                total_bytes: self.image.max_layer_bytes,
                file_bytes: self.image.max_file_bytes,
                entries: self.image.max_entries,
                window_bytes: self.image.max_zstd_window_bytes,
                ..image::Limits::default()
            },
            parallel_layers: self.image.parallel_layers,
            verifiers: self.image.verifiers.clone(),
            ..registry.into()
        }
    }

    /// For the network engine. What it keeps lies below `root`: daemons side by side must not
    /// collect each other's addresses.
    pub(crate) fn network(&self, root: &Path) -> cni::EngineConfig {
        cni::EngineConfig {
            conf_dir: self.cni.conf_dir.clone(),
            bin_dirs: self.cni.bin_dirs.clone(),
            cache_dir: self.cni.cache_dir.clone(),
            data_dir: root.join("networks"),
            default_subnets: self.cni.subnets.clone(),
            follow_pod_ranges: self.cni.follow_kubelet,
            built_in_network: self.cni.built_in_network,
            networks: self.cni.networks.clone(),
            pod_networks: self.cni.pod_networks.clone(),
            serve_host_ports: self.cni.serve_host_ports,
            packet_filter: self.cni.packet_filter,
            bridge_name: self.cni.bridge_name.clone(),
            ..cni::EngineConfig::default()
        }
    }

    /// For the streaming server.
    pub(crate) fn streaming(&self) -> streaming::Config {
        let tls = self.streaming.tls.clone().map(|tls| TlsFiles {
            certificate: tls.cert,
            key: tls.key,
            client_ca: tls.client_ca,
        });
        streaming::Config {
            listen: self.streaming.address,
            tls,
            idle_timeout: self.streaming.idle_timeout,
            stream_creation_timeout: self.streaming.creation_timeout,
            drain_timeout: self.exec.drain_timeout,
            ..streaming::Config::default()
        }
    }
}
