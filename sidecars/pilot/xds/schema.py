"""The messages of xDS v3 that the pilot reads and writes, with the fields that it uses. As `protobuf.py` reads a table.

What is missing here cannot be served: a mapping that names it is refused where it is converted, by name.
"""

from __future__ import annotations

from typing import Final

from pannier.sidecars.pilot.protobuf import RPC, Messages, Table

ENVOY: Final[Table] = {
    "envoy.config.cluster.v3": {
        "CircuitBreakers": "thresholds Thresholds[] 1; per_host_thresholds Thresholds[] 2",
        "CircuitBreakers.Thresholds": (
            "priority config.core.v3.RoutingPriority 1; max_connections UInt32Value 2; "
            "max_pending_requests UInt32Value 3; max_requests UInt32Value 4; max_retries UInt32Value 5; "
            "track_remaining bool 6; max_connection_pools UInt32Value 7; retry_budget RetryBudget 8"
        ),
        "CircuitBreakers.Thresholds.RetryBudget": (
            "budget_percent type.v3.Percent 1; min_retry_concurrency UInt32Value 2"
        ),
        "Cluster": (
            "name string 1; type DiscoveryType 2 in cluster_discovery_type; eds_cluster_config EdsClusterConfig 3; "
            "connect_timeout Duration 4; per_connection_buffer_limit_bytes UInt32Value 5; lb_policy LbPolicy 6; "
            "max_requests_per_connection UInt32Value 9; circuit_breakers CircuitBreakers 10; "
            "outlier_detection OutlierDetection 19; metadata config.core.v3.Metadata 25; "
            "common_lb_config CommonLbConfig 27; alt_stat_name string 28; "
            "close_connections_on_host_health_failure bool 31; ignore_health_on_host_removal bool 32; "
            "load_assignment config.endpoint.v3.ClusterLoadAssignment 33; "
            "typed_extension_protocol_options map<string,Any> 36; load_balancing_policy LoadBalancingPolicy 41; "
            "track_timeout_budgets bool 47; connection_pool_per_downstream_connection bool 51"
        ),
        "Cluster.CommonLbConfig": (
            "healthy_panic_threshold type.v3.Percent 1; "
            "zone_aware_lb_config ZoneAwareLbConfig 2 in locality_config_specifier; "
            "locality_weighted_lb_config LocalityWeightedLbConfig 3 in locality_config_specifier; "
            "update_merge_window Duration 4; ignore_new_hosts_until_first_hc bool 5; "
            "close_connections_on_host_set_change bool 6"
        ),
        "Cluster.CommonLbConfig.LocalityWeightedLbConfig": "",
        "Cluster.CommonLbConfig.ZoneAwareLbConfig": (
            "routing_enabled type.v3.Percent 1; min_cluster_size UInt64Value 2; fail_traffic_on_panic bool 3"
        ),
        "Cluster.DiscoveryType": "enum STATIC 0; STRICT_DNS 1; LOGICAL_DNS 2; EDS 3; ORIGINAL_DST 4",
        "Cluster.EdsClusterConfig": "eds_config config.core.v3.ConfigSource 1; service_name string 2",
        "Cluster.LbPolicy": (
            "enum ROUND_ROBIN 0; LEAST_REQUEST 1; RING_HASH 2; RANDOM 3; MAGLEV 5; CLUSTER_PROVIDED 6; "
            "LOAD_BALANCING_POLICY_CONFIG 7"
        ),
        "LoadBalancingPolicy": "policies Policy[] 1",
        "LoadBalancingPolicy.Policy": "typed_extension_config config.core.v3.TypedExtensionConfig 4",
        "OutlierDetection": (
            "consecutive_5xx UInt32Value 1; interval Duration 2; base_ejection_time Duration 3; "
            "max_ejection_percent UInt32Value 4; enforcing_consecutive_5xx UInt32Value 5; "
            "enforcing_success_rate UInt32Value 6; success_rate_minimum_hosts UInt32Value 7; "
            "success_rate_request_volume UInt32Value 8; success_rate_stdev_factor UInt32Value 9; "
            "consecutive_gateway_failure UInt32Value 10; enforcing_consecutive_gateway_failure UInt32Value 11; "
            "split_external_local_origin_errors bool 12; consecutive_local_origin_failure UInt32Value 13; "
            "enforcing_consecutive_local_origin_failure UInt32Value 14; "
            "enforcing_local_origin_success_rate UInt32Value 15; failure_percentage_threshold UInt32Value 16; "
            "enforcing_failure_percentage UInt32Value 17; "
            "enforcing_failure_percentage_local_origin UInt32Value 18; "
            "failure_percentage_minimum_hosts UInt32Value 19; failure_percentage_request_volume UInt32Value 20; "
            "max_ejection_time Duration 21; max_ejection_time_jitter Duration 22; "
            "successful_active_health_check_uneject_host BoolValue 23; "
            "monitors config.core.v3.TypedExtensionConfig[] 24; always_eject_one_host BoolValue 25"
        ),
    },
    "envoy.config.core.v3": {
        "Address": "socket_address SocketAddress 1 in address; pipe Pipe 2 in address",
        "AggregatedConfigSource": "",
        "ApiVersion": "enum AUTO 0; V3 2",
        "CidrRange": "address_prefix string 1; prefix_len UInt32Value 2",
        "ConfigSource": (
            "ads AggregatedConfigSource 3 in config_source_specifier; initial_fetch_timeout Duration 4; "
            "resource_api_version ApiVersion 6"
        ),
        "ControlPlane": "identifier string 1",
        "DataSource": "inline_bytes bytes 2 in specifier; inline_string string 3 in specifier",
        "HeaderValue": "key string 1; value string 2",
        "HeaderValueOption": "header HeaderValue 1; append_action HeaderAppendAction 3; keep_empty_value bool 4",
        "HeaderValueOption.HeaderAppendAction": (
            "enum APPEND_IF_EXISTS_OR_ADD 0; ADD_IF_ABSENT 1; OVERWRITE_IF_EXISTS_OR_ADD 2; OVERWRITE_IF_EXISTS 3"
        ),
        "HealthStatus": "enum UNKNOWN 0; HEALTHY 1; UNHEALTHY 2; DRAINING 3; TIMEOUT 4; DEGRADED 5",
        "Http1ProtocolOptions": "accept_http_10 bool 2",
        "Http2ProtocolOptions": (
            "max_concurrent_streams UInt32Value 2; initial_stream_window_size UInt32Value 3; "
            "initial_connection_window_size UInt32Value 4"
        ),
        "HttpProtocolOptions": (
            "idle_timeout Duration 1; max_headers_count UInt32Value 2; max_connection_duration Duration 3; "
            "max_stream_duration Duration 4; max_requests_per_connection UInt32Value 6"
        ),
        "Locality": "region string 1; zone string 2; sub_zone string 3",
        "Metadata": "filter_metadata map<string,Struct> 1; typed_filter_metadata map<string,Any> 2",
        "Node": (
            "id string 1; cluster string 2; metadata Struct 3; locality Locality 4; user_agent_name string 6; "
            "user_agent_version string 7 in user_agent_version_type; client_features string[] 10"
        ),
        "Pipe": "path string 1; mode uint32 2",
        "RoutingPriority": "enum DEFAULT 0; HIGH 1",
        "RuntimeFractionalPercent": "default_value type.v3.FractionalPercent 1; runtime_key string 2",
        "SocketAddress": "protocol Protocol 1; address string 2; port_value uint32 3 in port_specifier",
        "SocketAddress.Protocol": "enum TCP 0; UDP 1",
        "TrafficDirection": "enum UNSPECIFIED 0; INBOUND 1; OUTBOUND 2",
        "TypedExtensionConfig": "name string 1; typed_config Any 2",
    },
    "envoy.config.endpoint.v3": {
        "ClusterLoadAssignment": "cluster_name string 1; endpoints LocalityLbEndpoints[] 2; policy Policy 4",
        "ClusterLoadAssignment.Policy": (
            "overprovisioning_factor UInt32Value 3; endpoint_stale_after Duration 4; weighted_priority_health bool 6"
        ),
        "Endpoint": "address config.core.v3.Address 1; hostname string 3",
        "LbEndpoint": (
            "endpoint Endpoint 1 in host_identifier; health_status config.core.v3.HealthStatus 2; "
            "metadata config.core.v3.Metadata 3; load_balancing_weight UInt32Value 4"
        ),
        "LocalityLbEndpoints": (
            "locality config.core.v3.Locality 1; lb_endpoints LbEndpoint[] 2; load_balancing_weight UInt32Value 3; "
            "priority uint32 5"
        ),
    },
    "envoy.config.listener.v3": {
        "ApiListener": "api_listener Any 1",
        "Filter": "name string 1; typed_config Any 4 in config_type",
        "FilterChain": "filters Filter[] 3; name string 7",
        "Listener": (
            "name string 1; address config.core.v3.Address 2; filter_chains FilterChain[] 3; "
            "per_connection_buffer_limit_bytes UInt32Value 5; "
            "traffic_direction config.core.v3.TrafficDirection 16; api_listener ApiListener 19; "
            "default_filter_chain FilterChain 25; bind_to_port BoolValue 26; stat_prefix string 28; "
            "enable_reuse_port BoolValue 29"
        ),
    },
    "envoy.config.route.v3": {
        "DirectResponseAction": "status uint32 1; body config.core.v3.DataSource 2",
        "FilterConfig": "config Any 1; is_optional bool 2; disabled bool 3",
        "HeaderMatcher": (
            "name string 1; exact_match string 4 in header_match_specifier; "
            "range_match type.v3.Int64Range 6 in header_match_specifier; "
            "present_match bool 7 in header_match_specifier; invert_match bool 8; "
            "prefix_match string 9 in header_match_specifier; suffix_match string 10 in header_match_specifier; "
            "safe_regex_match type.matcher.v3.RegexMatcher 11 in header_match_specifier; "
            "contains_match string 12 in header_match_specifier; "
            "string_match type.matcher.v3.StringMatcher 13 in header_match_specifier; "
            "treat_missing_header_as_empty bool 14"
        ),
        "NonForwardingAction": "",
        "QueryParameterMatcher": (
            "name string 1; string_match type.matcher.v3.StringMatcher 5 in query_parameter_match_specifier; "
            "present_match bool 6 in query_parameter_match_specifier"
        ),
        "RedirectAction": (
            "host_redirect string 1; path_redirect string 2 in path_rewrite_specifier; "
            "response_code RedirectResponseCode 3; https_redirect bool 4 in scheme_rewrite_specifier; "
            "prefix_rewrite string 5 in path_rewrite_specifier; strip_query bool 6; "
            "scheme_redirect string 7 in scheme_rewrite_specifier; port_redirect uint32 8; "
            "regex_rewrite type.matcher.v3.RegexMatchAndSubstitute 9 in path_rewrite_specifier"
        ),
        "RedirectAction.RedirectResponseCode": (
            "enum MOVED_PERMANENTLY 0; FOUND 1; SEE_OTHER 2; TEMPORARY_REDIRECT 3; PERMANENT_REDIRECT 4"
        ),
        "RetryPolicy": (
            "retry_on string 1; num_retries UInt32Value 2; per_try_timeout Duration 3; "
            "retry_host_predicate RetryHostPredicate[] 5; host_selection_retry_max_attempts int64 6; "
            "retriable_status_codes uint32[] 7; retry_back_off RetryBackOff 8; "
            "retriable_headers HeaderMatcher[] 9; retriable_request_headers HeaderMatcher[] 10; "
            "rate_limited_retry_back_off RateLimitedRetryBackOff 11; per_try_idle_timeout Duration 13"
        ),
        "RetryPolicy.RateLimitedRetryBackOff": "reset_headers RetryPolicy.ResetHeader[] 1; max_interval Duration 2",
        "RetryPolicy.ResetHeader": "name string 1; format RetryPolicy.ResetHeaderFormat 2",
        "RetryPolicy.ResetHeaderFormat": "enum SECONDS 0; UNIX_TIMESTAMP 1",
        "RetryPolicy.RetryBackOff": "base_interval Duration 1; max_interval Duration 2",
        "RetryPolicy.RetryHostPredicate": "name string 1; typed_config Any 3 in config_type",
        "Route": (
            "match RouteMatch 1; route RouteAction 2 in action; redirect RedirectAction 3 in action; "
            "metadata config.core.v3.Metadata 4; direct_response DirectResponseAction 7 in action; "
            "request_headers_to_add config.core.v3.HeaderValueOption[] 9; "
            "response_headers_to_add config.core.v3.HeaderValueOption[] 10; "
            "response_headers_to_remove string[] 11; request_headers_to_remove string[] 12; "
            "typed_per_filter_config map<string,Any> 13; name string 14; "
            "non_forwarding_action NonForwardingAction 18 in action; stat_prefix string 19; "
            "request_body_buffer_limit UInt64Value 20"
        ),
        "RouteAction": (
            "cluster string 1 in cluster_specifier; cluster_header string 2 in cluster_specifier; "
            "weighted_clusters WeightedCluster 3 in cluster_specifier; metadata_match config.core.v3.Metadata 4; "
            "prefix_rewrite string 5; host_rewrite_literal string 6 in host_rewrite_specifier; "
            "auto_host_rewrite BoolValue 7 in host_rewrite_specifier; timeout Duration 8; "
            "retry_policy RetryPolicy 9; priority config.core.v3.RoutingPriority 11; hash_policy HashPolicy[] 15; "
            "cluster_not_found_response_code ClusterNotFoundResponseCode 20; idle_timeout Duration 24; "
            "upgrade_configs UpgradeConfig[] 25; request_mirror_policies RequestMirrorPolicy[] 30; "
            "regex_rewrite type.matcher.v3.RegexMatchAndSubstitute 32; max_stream_duration MaxStreamDuration 36; "
            "append_x_forwarded_host bool 38"
        ),
        "RouteAction.ClusterNotFoundResponseCode": "enum SERVICE_UNAVAILABLE 0; NOT_FOUND 1; INTERNAL_SERVER_ERROR 2",
        "RouteAction.HashPolicy": (
            "header Header 1 in policy_specifier; cookie Cookie 2 in policy_specifier; "
            "connection_properties ConnectionProperties 3 in policy_specifier; terminal bool 4; "
            "query_parameter QueryParameter 5 in policy_specifier"
        ),
        "RouteAction.HashPolicy.ConnectionProperties": "source_ip bool 1",
        "RouteAction.HashPolicy.Cookie": "name string 1; ttl Duration 2; path string 3",
        "RouteAction.HashPolicy.Header": (
            "header_name string 1; regex_rewrite type.matcher.v3.RegexMatchAndSubstitute 2"
        ),
        "RouteAction.HashPolicy.QueryParameter": "name string 1",
        "RouteAction.MaxStreamDuration": (
            "max_stream_duration Duration 1; grpc_timeout_header_max Duration 2; grpc_timeout_header_offset Duration 3"
        ),
        "RouteAction.RequestMirrorPolicy": (
            "cluster string 1; runtime_fraction config.core.v3.RuntimeFractionalPercent 3; "
            "trace_sampled BoolValue 4; disable_shadow_host_suffix_append bool 6"
        ),
        "RouteAction.UpgradeConfig": "upgrade_type string 1; enabled BoolValue 2",
        "RouteConfiguration": (
            "name string 1; virtual_hosts VirtualHost[] 2; internal_only_headers string[] 3; "
            "response_headers_to_add config.core.v3.HeaderValueOption[] 4; response_headers_to_remove string[] 5; "
            "request_headers_to_add config.core.v3.HeaderValueOption[] 6; validate_clusters BoolValue 7; "
            "request_headers_to_remove string[] 8; most_specific_header_mutations_wins bool 10; "
            "ignore_port_in_host_matching bool 14; typed_per_filter_config map<string,Any> 16"
        ),
        "RouteMatch": (
            "prefix string 1 in path_specifier; path string 2 in path_specifier; case_sensitive BoolValue 4; "
            "headers HeaderMatcher[] 6; query_parameters QueryParameterMatcher[] 7; grpc GrpcRouteMatchOptions 8; "
            "runtime_fraction config.core.v3.RuntimeFractionalPercent 9; "
            "safe_regex type.matcher.v3.RegexMatcher 10 in path_specifier; "
            "path_separated_prefix string 14 in path_specifier"
        ),
        "RouteMatch.GrpcRouteMatchOptions": "",
        "VirtualHost": (
            "name string 1; domains string[] 2; routes Route[] 3; "
            "request_headers_to_add config.core.v3.HeaderValueOption[] 7; "
            "response_headers_to_add config.core.v3.HeaderValueOption[] 10; "
            "response_headers_to_remove string[] 11; request_headers_to_remove string[] 13; "
            "include_request_attempt_count bool 14; typed_per_filter_config map<string,Any> 15; "
            "retry_policy RetryPolicy 16; include_attempt_count_in_response bool 19; "
            "request_mirror_policies RouteAction.RequestMirrorPolicy[] 22"
        ),
        "WeightedCluster": (
            "clusters ClusterWeight[] 1; total_weight UInt32Value 3; header_name string 4 in random_value_specifier; "
            "use_hash_policy BoolValue 5 in random_value_specifier"
        ),
        "WeightedCluster.ClusterWeight": (
            "name string 1; weight UInt32Value 2; metadata_match config.core.v3.Metadata 3; "
            "request_headers_to_add config.core.v3.HeaderValueOption[] 4; "
            "response_headers_to_add config.core.v3.HeaderValueOption[] 5; response_headers_to_remove string[] 6; "
            "request_headers_to_remove string[] 9; typed_per_filter_config map<string,Any> 10; "
            "host_rewrite_literal string 11 in host_rewrite_specifier"
        ),
    },
    "envoy.extensions.common.ratelimit.v3": {
        "XRateLimitHeadersRFCVersion": "enum OFF 0; DRAFT_VERSION_03 1",
    },
    "envoy.extensions.filters.common.fault.v3": {
        "FaultDelay": "fixed_delay Duration 3 in fault_delay_secifier; percentage type.v3.FractionalPercent 4",
    },
    "envoy.extensions.filters.http.cors.v3": {
        "Cors": "",
        "CorsPolicy": (
            "allow_origin_string_match type.matcher.v3.StringMatcher[] 1; allow_methods string 2; "
            "allow_headers string 3; expose_headers string 4; max_age string 5; allow_credentials BoolValue 6"
        ),
    },
    "envoy.extensions.filters.http.fault.v3": {
        "FaultAbort": (
            "http_status uint32 2 in error_type; percentage type.v3.FractionalPercent 3; "
            "grpc_status uint32 5 in error_type"
        ),
        "HTTPFault": (
            "delay extensions.filters.common.fault.v3.FaultDelay 1; abort FaultAbort 2; upstream_cluster string 3; "
            "headers config.route.v3.HeaderMatcher[] 4; max_active_faults UInt32Value 6"
        ),
    },
    "envoy.extensions.filters.http.local_ratelimit.v3": {
        "LocalRateLimit": (
            "stat_prefix string 1; status type.v3.HttpStatus 2; token_bucket type.v3.TokenBucket 3; "
            "filter_enabled config.core.v3.RuntimeFractionalPercent 4; "
            "filter_enforced config.core.v3.RuntimeFractionalPercent 5; "
            "enable_x_ratelimit_headers extensions.common.ratelimit.v3.XRateLimitHeadersRFCVersion 12"
        ),
    },
    "envoy.extensions.filters.http.router.v3": {
        "Router": "dynamic_stats BoolValue 1; suppress_envoy_headers bool 4; respect_expected_rq_timeout bool 6",
    },
    "envoy.extensions.filters.network.http_connection_manager.v3": {
        "HttpConnectionManager": (
            "codec_type CodecType 1; stat_prefix string 2; rds Rds 3 in route_specifier; "
            "route_config config.route.v3.RouteConfiguration 4 in route_specifier; http_filters HttpFilter[] 5; "
            "add_user_agent BoolValue 6; http_protocol_options config.core.v3.Http1ProtocolOptions 8; "
            "http2_protocol_options config.core.v3.Http2ProtocolOptions 9; server_name string 10; "
            "drain_timeout Duration 12; use_remote_address BoolValue 14; generate_request_id BoolValue 15; "
            "xff_num_trusted_hops uint32 19; upgrade_configs UpgradeConfig[] 23; stream_idle_timeout Duration 24; "
            "internal_address_config InternalAddressConfig 25; request_timeout Duration 28; "
            "normalize_path BoolValue 30; preserve_external_request_id bool 32; merge_slashes bool 33; "
            "server_header_transformation ServerHeaderTransformation 34; "
            "common_http_protocol_options config.core.v3.HttpProtocolOptions 35; "
            "always_set_request_id_in_response bool 37; strip_any_host_port bool 42 in strip_port_mode"
        ),
        "HttpConnectionManager.CodecType": "enum AUTO 0; HTTP1 1; HTTP2 2; HTTP3 3",
        "HttpConnectionManager.InternalAddressConfig": "unix_sockets bool 1; cidr_ranges config.core.v3.CidrRange[] 2",
        "HttpConnectionManager.ServerHeaderTransformation": "enum OVERWRITE 0; APPEND_IF_ABSENT 1; PASS_THROUGH 2",
        "HttpConnectionManager.UpgradeConfig": "upgrade_type string 1; enabled BoolValue 3",
        "HttpFilter": "name string 1; typed_config Any 4 in config_type; is_optional bool 6; disabled bool 7",
        "Rds": "config_source config.core.v3.ConfigSource 1; route_config_name string 2",
    },
    "envoy.extensions.load_balancing_policies.common.v3": {
        "ConsistentHashingLbConfig": "use_hostname_for_hashing bool 1; hash_balance_factor UInt32Value 2",
        "LocalityLbConfig": (
            "zone_aware_lb_config ZoneAwareLbConfig 1 in locality_config_specifier; "
            "locality_weighted_lb_config LocalityWeightedLbConfig 2 in locality_config_specifier"
        ),
        "LocalityLbConfig.LocalityWeightedLbConfig": "",
        "LocalityLbConfig.ZoneAwareLbConfig": "routing_enabled type.v3.Percent 1; min_cluster_size UInt64Value 2",
        "SlowStartConfig": "slow_start_window Duration 1; min_weight_percent type.v3.Percent 3",
    },
    "envoy.extensions.load_balancing_policies.least_request.v3": {
        "LeastRequest": (
            "choice_count UInt32Value 1; "
            "slow_start_config extensions.load_balancing_policies.common.v3.SlowStartConfig 3; "
            "locality_lb_config extensions.load_balancing_policies.common.v3.LocalityLbConfig 4"
        ),
    },
    "envoy.extensions.load_balancing_policies.maglev.v3": {
        "Maglev": (
            "table_size UInt64Value 1; "
            "consistent_hashing_lb_config extensions.load_balancing_policies.common.v3.ConsistentHashingLbConfig 2"
        ),
    },
    "envoy.extensions.load_balancing_policies.random.v3": {
        "Random": "locality_lb_config extensions.load_balancing_policies.common.v3.LocalityLbConfig 1",
    },
    "envoy.extensions.load_balancing_policies.ring_hash.v3": {
        "RingHash": (
            "hash_function HashFunction 1; minimum_ring_size UInt64Value 2; maximum_ring_size UInt64Value 3; "
            "consistent_hashing_lb_config extensions.load_balancing_policies.common.v3.ConsistentHashingLbConfig 6"
        ),
        "RingHash.HashFunction": "enum DEFAULT_HASH 0; XX_HASH 1; MURMUR_HASH_2 2",
    },
    "envoy.extensions.load_balancing_policies.round_robin.v3": {
        "RoundRobin": (
            "slow_start_config extensions.load_balancing_policies.common.v3.SlowStartConfig 1; "
            "locality_lb_config extensions.load_balancing_policies.common.v3.LocalityLbConfig 2"
        ),
    },
    "envoy.extensions.retry.host.previous_hosts.v3": {
        "PreviousHostsPredicate": "",
    },
    "envoy.extensions.upstreams.http.v3": {
        "HttpProtocolOptions": (
            "common_http_protocol_options config.core.v3.HttpProtocolOptions 1; "
            "explicit_http_config ExplicitHttpConfig 3 in upstream_protocol_options"
        ),
        "HttpProtocolOptions.ExplicitHttpConfig": (
            "http_protocol_options config.core.v3.Http1ProtocolOptions 1 in protocol_config; "
            "http2_protocol_options config.core.v3.Http2ProtocolOptions 2 in protocol_config"
        ),
    },
    "envoy.service.discovery.v3": {
        "DeltaDiscoveryRequest": (
            "node config.core.v3.Node 1; type_url string 2; resource_names_subscribe string[] 3; "
            "resource_names_unsubscribe string[] 4; initial_resource_versions map<string,string> 5; "
            "response_nonce string 6; error_detail google.rpc.Status 7"
        ),
        "DeltaDiscoveryResponse": (
            "system_version_info string 1; resources Resource[] 2; type_url string 4; nonce string 5; "
            "removed_resources string[] 6; control_plane config.core.v3.ControlPlane 7"
        ),
        "DiscoveryRequest": (
            "version_info string 1; node config.core.v3.Node 2; resource_names string[] 3; type_url string 4; "
            "response_nonce string 5; error_detail google.rpc.Status 6"
        ),
        "DiscoveryResponse": (
            "version_info string 1; resources Any[] 2; type_url string 4; nonce string 5; "
            "control_plane config.core.v3.ControlPlane 6"
        ),
        "Resource": "version string 1; resource Any 2; name string 3; aliases string[] 4",
    },
    "envoy.type.matcher.v3": {
        "RegexMatchAndSubstitute": "pattern RegexMatcher 1; substitution string 2",
        "RegexMatcher": "regex string 2",
        "StringMatcher": (
            "exact string 1 in match_pattern; prefix string 2 in match_pattern; suffix string 3 in match_pattern; "
            "safe_regex RegexMatcher 5 in match_pattern; ignore_case bool 6; contains string 7 in match_pattern"
        ),
    },
    "envoy.type.v3": {
        "FractionalPercent": "numerator uint32 1; denominator DenominatorType 2",
        "FractionalPercent.DenominatorType": "enum HUNDRED 0; TEN_THOUSAND 1; MILLION 2",
        "HttpStatus": "code StatusCode 1",
        "Int64Range": "start int64 1; end int64 2",
        "Percent": "value double 1",
        "StatusCode": "enum Empty 0; TooManyRequests 429; ServiceUnavailable 503",
        "TokenBucket": "max_tokens uint32 1; tokens_per_fill UInt32Value 2; fill_interval Duration 3",
    },
}

MESSAGES: Final = Messages(ENVOY, RPC)
