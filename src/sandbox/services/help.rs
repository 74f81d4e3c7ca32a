//! What clients ask about the server itself.

#![expect(clippy::unnecessary_wraps, reason = "every service answers as one that can refuse")]

use std::net::{IpAddr, SocketAddr};

use grammers_tl_types as tl;

use crate::sandbox::{
    call::{Answer, Call},
    clock,
    server::{MAIN_DC, Server},
};

/// Seconds for which a client may keep the configuration.
const CONFIG_LIFETIME: i32 = 3_600;

pub(in crate::sandbox) fn get_config(
    server: &Server,
    call: &mut Call<'_>,
    _: tl::functions::help::GetConfig,
) -> Answer<tl::enums::Config> {
    let date = clock::unix_seconds();
    Ok(tl::types::Config {
        default_p2p_contacts: false,
        preload_featured_stickers: false,
        revoke_pm_inbox: true,
        blocked_mode: false,
        force_try_ipv6: false,
        date,
        expires: date + CONFIG_LIFETIME,
        test_mode: true,
        this_dc: call.caller.dc,
        dc_options: server.dcs.iter().map(|(dc, addr)| dc_option(*dc, *addr)).collect(),
        dc_txt_domain_name: String::new(),
        chat_size_max: 200,
        megagroup_size_max: 200_000,
        forwarded_count_max: 100,
        online_update_period_ms: 210_000,
        offline_blur_timeout_ms: 5_000,
        offline_idle_timeout_ms: 30_000,
        online_cloud_timeout_ms: 300_000,
        notify_cloud_delay_ms: 30_000,
        notify_default_delay_ms: 1_500,
        push_chat_period_ms: 60_000,
        push_chat_limit: 2,
        edit_time_limit: 172_800,
        revoke_time_limit: i32::MAX,
        revoke_pm_time_limit: i32::MAX,
        rating_e_decay: 2_419_200,
        stickers_recent_limit: 200,
        channels_read_media_period: 604_800,
        tmp_sessions: None,
        call_receive_timeout_ms: 20_000,
        call_ring_timeout_ms: 90_000,
        call_connect_timeout_ms: 30_000,
        call_packet_timeout_ms: 10_000,
        me_url_prefix: "https://t.me/".into(),
        autoupdate_url_prefix: None,
        gif_search_username: None,
        venue_search_username: None,
        img_search_username: None,
        static_maps_provider: None,
        caption_length_max: 1_024,
        message_length_max: 4_096,
        webfile_dc_id: MAIN_DC,
        suggested_lang_code: None,
        lang_pack_version: None,
        base_lang_pack_version: None,
        reactions_default: None,
        autologin_token: None,
    }
    .into())
}

fn dc_option(dc: i32, addr: SocketAddr) -> tl::enums::DcOption {
    tl::types::DcOption {
        ipv6: matches!(addr.ip(), IpAddr::V6(_)),
        media_only: false,
        tcpo_only: false,
        cdn: false,
        r#static: true,
        this_port_only: true,
        id: dc,
        ip_address: addr.ip().to_string(),
        port: i32::from(addr.port()),
        secret: None,
    }
    .into()
}

pub(in crate::sandbox) fn get_nearest_dc(
    _: &Server,
    call: &mut Call<'_>,
    _: tl::functions::help::GetNearestDc,
) -> Answer<tl::enums::NearestDc> {
    Ok(tl::types::NearestDc {
        country: "XX".into(),
        this_dc: call.caller.dc,
        nearest_dc: MAIN_DC,
    }
    .into())
}

pub(in crate::sandbox) fn get_app_config(
    _: &Server,
    call: &mut Call<'_>,
    request: tl::functions::help::GetAppConfig,
) -> Answer<tl::enums::help::AppConfig> {
    let limit = u32::try_from(call.world.channels_limit).unwrap_or(u32::MAX);
    // Another configuration has another hash; 0 is a client's that has none.
    let hash = i32::try_from(limit).unwrap_or(i32::MAX).max(1);
    if request.hash == hash {
        return Ok(tl::enums::help::AppConfig::NotModified);
    }
    let number = |key: &str, value: u32| {
        tl::types::JsonObjectValue {
            key: key.to_owned(),
            value: tl::types::JsonNumber { value: value.into() }.into(),
        }
        .into()
    };
    let value = vec![
        number("channels_limit_default", limit),
        number("channels_limit_premium", limit.saturating_mul(2)),
    ];
    let config = tl::types::JsonObject { value }.into();
    Ok(tl::types::help::AppConfig { hash, config }.into())
}
