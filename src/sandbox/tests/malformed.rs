//! Bytes that are no `MTProto` close their connection, and harm nothing else.

use grammers_crypto::DequeBuffer;
use grammers_mtproto::transport::{Full, Transport as _};
use grammers_tl_types::{Serializable as _, functions as f};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::client::{Client, new_key, sandbox, within};
use crate::sandbox::{SandboxHandle, auth_keys::KeyId, random};

fn framed(packet: &[u8]) -> Vec<u8> {
    let mut buffer = DequeBuffer::with_capacity(packet.len(), 16);
    buffer.extend(packet);
    Full::new().pack(&mut buffer);
    buffer.as_ref().to_vec()
}

fn plain(body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 16];
    i32::try_from(body.len()).expect("fits").serialize(&mut packet);
    packet.extend(body);
    framed(&packet)
}

/// Sends bytes on a connection of their own, and waits until the sandbox closes it.
async fn is_closed_for(sandbox: &SandboxHandle, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(sandbox.addr()).await.expect("connects");
    stream.write_all(bytes).await.expect("writes");
    let mut answer = Vec::new();
    // A reset instead of an end is as good.
    let _ = within(stream.read_to_end(&mut answer)).await;
    answer
}

#[tokio::test]
async fn malformed_bytes_close_their_connection_only() {
    let sandbox = sandbox().await;
    let mut client = Client::new(&sandbox).await;
    let key = new_key(&sandbox).await;
    let key_id: KeyId = crate::sandbox::encryption::key_id(&grammers_crypto::AuthKey::from_bytes(key.auth_key));
    let known_key_and_noise = [key_id.as_slice(), &random::bytes::<16>(), &random::bytes::<64>()].concat();
    let mut wrong_checksum = framed(&[0; 24]);
    *wrong_checksum.last_mut().expect("it has bytes") ^= 1;

    let bad: [&[u8]; 12] = [
        b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
        &[0xef, 1, 2, 3, 4, 5, 6, 7],
        &i32::MAX.to_le_bytes(),
        &(-5_i32).to_le_bytes(),
        &4_i32.to_le_bytes(),
        &wrong_checksum,
        &framed(&[]),
        &framed(&[0; 4]),
        &plain(&[]),
        &plain(&f::help::GetConfig {}.to_bytes()),
        &plain(&f::ReqPqMulti { nonce: [1; 16] }.to_bytes()[..12]),
        &framed(&known_key_and_noise),
    ];
    for bytes in bad {
        is_closed_for(&sandbox, bytes).await;
    }
    let unknown_key = is_closed_for(&sandbox, &framed(&[1; 120])).await;
    assert_eq!(unknown_key, (-404_i32).to_le_bytes().repeat(3));

    client.invoke(&f::help::GetConfig {}).await.expect("the client goes on");
    assert!(sandbox.controls().calls().panicked.is_empty());
    assert_eq!(sandbox.controls().connections().len(), 1);
}

#[tokio::test]
async fn an_exchange_out_of_order_is_refused() {
    let sandbox = sandbox().await;
    let request = f::SetClientDhParams {
        nonce: [1; 16],
        server_nonce: [2; 16],
        encrypted_data: vec![0; 64],
    };
    assert!(is_closed_for(&sandbox, &plain(&request.to_bytes())).await.is_empty());
    let request = f::ReqDhParams {
        nonce: [1; 16],
        server_nonce: [2; 16],
        p: vec![3],
        q: vec![5],
        public_key_fingerprint: 0,
        encrypted_data: vec![255; 256],
    };
    assert!(is_closed_for(&sandbox, &plain(&request.to_bytes())).await.is_empty());
}
