//! All doors of the daemon: opened together before anything runs, served together, closed together.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::entrance::{Entrance, Layers};
use super::tcp;
use super::unix::{UnixDoor, UnixError};
use super::websocket::Origins;
use crate::security::certificates::ServerTls;
use crate::settings::{AuthMode, Settings};

/// Why a door cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// A port.
    #[error("{setting} = {address} cannot be listened on: {source}; stop what uses it, or set another port")]
    Listen {
        /// The setting.
        setting: &'static str,
        /// Its value.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// The Unix socket.
    #[error(transparent)]
    Unix(#[from] UnixError),
}

/// The doors that the settings want, open.
pub struct Doors {
    ports: Vec<Port>,
    unix: Option<UnixDoor>,
}

struct Port {
    /// As it appears in the log.
    name: &'static str,
    listener: TcpListener,
    layers: Layers,
}

impl Doors {
    /// Opens them all, those of TLS with what these show. Nobody is let in before [`Doors::serve`], but the
    /// kernel answers already.
    pub fn open(settings: &Settings, tls: Option<ServerTls>) -> Result<Doors, DoorError> {
        let mqtt = &settings.mqtt;
        let origins = match settings.auth.mode {
            AuthMode::Token => Origins::Any,
            AuthMode::None => Origins::OwnMachine,
        };
        let plain = Layers::default();
        let secure = Layers { tls, websocket: None };
        let websocket = |layers: &Layers| Layers {
            websocket: Some(origins),
            ..layers.clone()
        };
        let mut ports = vec![open("mqtt", "mqtt.tcp", mqtt.tcp, plain.clone())?];
        if let Some(address) = mqtt.websocket {
            match open("websocket", "mqtt.websocket", address, websocket(&plain)) {
                Err(DoorError::Listen { source, .. })
                    if mqtt.websocket_by_default && source.kind() == io::ErrorKind::AddrInUse =>
                {
                    tracing::warn!(
                        %address,
                        "no WebSocket listener: another program has its port; set mqtt.websocket to another \
                         port, or to nothing"
                    );
                }
                opened => ports.push(opened?),
            }
        }
        if let Some(address) = mqtt.tls {
            ports.push(open("tls", "mqtt.tls", address, secure.clone())?);
        }
        if let Some(address) = mqtt.secure_websocket {
            ports.push(open(
                "secure websocket",
                "mqtt.secure_websocket",
                address,
                websocket(&secure),
            )?);
        }
        let unix = mqtt.unix.as_deref().map(UnixDoor::bind).transpose()?;
        Ok(Doors { ports, unix })
    }

    /// Where one of them is, by its name in the log.
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        let port = self.ports.iter().find(|port| port.name == name)?;
        port.listener.local_addr().ok()
    }

    /// Lets clients in until `stop` is ready. Each door is watched in the room of its number.
    pub fn serve<F>(
        self,
        entrance: &Arc<Entrance>,
        stop: impl Fn() -> F,
    ) -> Vec<actix_rt::task::JoinHandle<()>>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut served = Vec::new();
        for (number, port) in self.ports.into_iter().enumerate() {
            if let Ok(address) = port.listener.local_addr() {
                tracing::info!(%address, "{} listens", port.name);
            }
            let (entrance_there, stop) = (entrance.clone(), stop());
            served.extend(watch(entrance, number, port.name, async move |here| {
                let listener = tokio::net::TcpListener::from_std(port.listener)?;
                tcp::serve(listener, port.layers, entrance_there, here, stop).await;
                Ok(())
            }));
        }
        if let Some(door) = self.unix {
            tracing::info!(path = %door.path().display(), "unix socket listens");
            let (entrance_there, stop) = (entrance.clone(), stop());
            served.extend(watch(entrance, served.len(), "unix socket", async move |here| {
                door.serve(entrance_there, here, stop).await
            }));
        }
        served
    }
}

/// Runs a door's loop in its room; the task here ends when that does.
fn watch<W>(
    entrance: &Arc<Entrance>,
    number: usize,
    name: &'static str,
    work: W,
) -> Option<actix_rt::task::JoinHandle<()>>
where
    W: AsyncFnOnce(usize) -> io::Result<()> + Send + 'static,
{
    let (here, room) = entrance.room_for_door(number)?;
    let (ended, end) = oneshot::channel::<()>();
    room.arbiter.spawn_fn(move || {
        actix_rt::spawn(async move {
            if let Err(error) = work(here).await {
                tracing::error!(%error, "{name} lets nobody in; start the daemon again");
            }
            drop(ended);
        });
    });
    Some(actix_rt::spawn(async move {
        // Only its being dropped says something.
        let _ = end.await;
    }))
}

fn open(
    name: &'static str,
    setting: &'static str,
    address: SocketAddr,
    layers: Layers,
) -> Result<Port, DoorError> {
    let listener = tcp::bind(address).map_err(|source| DoorError::Listen {
        setting,
        address,
        source,
    })?;
    Ok(Port {
        name,
        listener,
        layers,
    })
}
