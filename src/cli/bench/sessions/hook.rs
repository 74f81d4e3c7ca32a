//! What the write hook costs: grammers has none, so each session's bytes go through a relay that looks at the lease's trust
//! before each write. It cannot be left out of a worker; so here are round trips through as many relays and, in turn, over as
//! many plain connections, to a server that sends back what it gets.

use std::{net::SocketAddrV4, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    cli::bench::{
        figures::{count, quantile},
        usage,
    },
    telegram::{
        relay::Relay,
        trust::{Moment, Trust},
    },
};

/// Bytes of a small packet, such as a ping's.
const PACKET: usize = 100;
const ROUND_TRIPS: usize = 10_000;
/// Each way is measured so often, in turns.
const TURNS: usize = 3;
const LOOKS: u32 = 1_000_000;
/// Longer than all of it takes.
const TRUSTED: Duration = Duration::from_hours(1);
const SILENCE: Duration = Duration::from_secs(30);

/// What it costs.
pub struct Cost {
    /// A look at the trust, in nanoseconds.
    pub look_ns: f64,
    pub plain: Way,
    pub relayed: Way,
}

/// Round trips over as many connections, one after the other.
#[derive(Default)]
pub struct Way {
    /// Medians of a turn, in microseconds.
    p50: Vec<i64>,
    p99: Vec<i64>,
    cpu_us: u64,
    round_trips: usize,
}

impl Way {
    /// The median of the turns' medians, in microseconds.
    pub fn p50_us(&self) -> Option<i64> {
        median(&self.p50)
    }

    pub fn p99_us(&self) -> Option<i64> {
        median(&self.p99)
    }

    /// CPU of a round trip in microseconds, both ends and the kernel included.
    pub fn cpu_us(&self) -> f64 {
        count(self.cpu_us) / count(self.round_trips.max(1) as u64)
    }
}

fn median(values: &[i64]) -> Option<i64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    quantile(&sorted, 50)
}

pub async fn measure(connections: usize) -> anyhow::Result<Cost> {
    let trust = Arc::new(Trust::new(Moment::now(), TRUSTED));
    let look_ns = time_looks(&trust);
    let (_server, address) = echo().await?;
    let mut cost = Cost {
        look_ns,
        plain: Way::default(),
        relayed: Way::default(),
    };
    let mut plain = connect(&vec![address; connections]).await?;
    let relays: Vec<Relay> = (0..connections)
        .map(|_| Relay::open(address, None, Arc::clone(&trust), SILENCE))
        .collect::<Result<_, _>>()
        .context("a relay could not be opened")?;
    let entrances: Vec<SocketAddrV4> = relays.iter().map(Relay::entrance).collect();
    let mut relayed = connect(&entrances).await?;
    for turn in 0..=TURNS {
        // The first turn warms both up.
        let counts = turn > 0;
        run(&mut plain, counts.then_some(&mut cost.plain)).await?;
        run(&mut relayed, counts.then_some(&mut cost.relayed)).await?;
    }
    Ok(cost)
}

fn time_looks(trust: &Trust) -> f64 {
    let begun = Instant::now();
    for _ in 0..LOOKS {
        std::hint::black_box(trust.holds());
    }
    begun.elapsed().as_secs_f64() * 1e9 / f64::from(LOOKS)
}

async fn run(connections: &mut [TcpStream], into: Option<&mut Way>) -> anyhow::Result<()> {
    let mut micros = Vec::with_capacity(ROUND_TRIPS);
    let (packet, mut answer) = ([7_u8; PACKET], [0_u8; PACKET]);
    let cpu = usage::cpu_us();
    for nth in 0..ROUND_TRIPS {
        let place = nth % connections.len();
        let connection = &mut connections[place];
        let begun = Instant::now();
        connection.write_all(&packet).await?;
        connection.read_exact(&mut answer).await?;
        micros.push(i64::try_from(begun.elapsed().as_micros())?);
    }
    let Some(way) = into else { return Ok(()) };
    way.cpu_us += usage::cpu_us() - cpu;
    way.round_trips += ROUND_TRIPS;
    micros.sort_unstable();
    way.p50.extend(quantile(&micros, 50));
    way.p99.extend(quantile(&micros, 99));
    Ok(())
}

async fn connect(addresses: &[SocketAddrV4]) -> anyhow::Result<Vec<TcpStream>> {
    let mut connections = Vec::with_capacity(addresses.len());
    for address in addresses {
        let connection = TcpStream::connect(address)
            .await
            .context("no connection could be made")?;
        connection.set_nodelay(true)?;
        connections.push(connection);
    }
    Ok(connections)
}

/// A server that sends back what it gets, for as long as its handle lives.
async fn echo() -> anyhow::Result<(AbortOnDropHandle<()>, SocketAddrV4)> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("no port could be had")?;
    let std::net::SocketAddr::V4(address) = listener.local_addr()? else {
        bail!("the loopback address is not IPv4");
    };
    let serving = tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = connection.set_nodelay(true);
                let mut bytes = [0_u8; PACKET];
                while connection.read_exact(&mut bytes).await.is_ok() {
                    if connection.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok((AbortOnDropHandle::new(serving), address))
}
